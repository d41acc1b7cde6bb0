"""Arguments for the ops on PyTorch's autocast lists.

    .venv-peers/bin/python tests/reference/make_autocast_cases.py

writes tests/amp/golden/autocast_cases.pt: a list of (op, arguments), the arguments in the order of the op's schema. What
comes out is not stored: the test runs each op under libtorch's autocast and under Mezzo's, and compares.
"""

import pathlib

import torch

torch.manual_seed(0)
N = 4


def r(*shape):
    return torch.rand(*shape)


def cases():
    x, y, image, labels = r(N, N) + 0.1, r(N, N) + 0.1, r(1, 2, N, N), torch.tensor([0, 1, 2, 3])
    spd = x @ x.mT + N * torch.eye(N)
    attention = (r(1, N, 8), r(1, N, 8), r(1, N, 8), 8, 2, r(24, 8), r(24), r(8, 8), r(8))
    return [
        ("mm", (x, y)), ("bmm", (r(2, N, N), r(2, N, N))), ("baddbmm", (r(2, N, N), r(2, N, N), r(2, N, N))),
        ("addmm", (x, x, y)), ("addbmm", (x, r(2, N, N), r(2, N, N))), ("matmul", (x, y)), ("prelu", (x, r(1))),
        ("conv1d", (r(1, 2, N), r(2, 2, 3))), ("conv2d", (image, r(2, 2, 3, 3))),
        ("conv3d", (r(1, 2, N, N, N), r(2, 2, 3, 3, 3))), ("conv_tbc", (r(N, 1, 2), r(3, 2, 2), r(2))),
        ("conv_transpose1d", (r(1, 2, N), r(2, 2, 3))), ("conv_transpose2d.input", (image, r(2, 2, 3, 3))),
        ("conv_transpose3d.input", (r(1, 2, N, N, N), r(2, 2, 3, 3, 3))),
        ("_convolution.deprecated", (image, r(2, 2, 3, 3), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False,
                                     True)),
        ("_convolution", (image, r(2, 2, 3, 3), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False, True, False)),
        ("convolution", (image, r(2, 2, 3, 3), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
        ("_native_multi_head_attention", attention),
        ("mkldnn_rnn_layer", (r(2, 1, N), r(4 * N, N), r(4 * N, N), r(4 * N), r(4 * N), r(1, N), r(1, N), False, [1], 2, N, 1,
                              True, False, False, False)),
        ("addbmm", (x, r(2, N, N), r(2, N, N))), ("lu_solve", (x, *torch.linalg.lu_factor(spd))),
        ("lstm_cell", (x, [x, y], r(4 * N, N), r(4 * N, N))), ("gru_cell", (x, y, r(3 * N, N), r(3 * N, N))),
        ("rnn_tanh_cell", (x, y, r(N, N), r(N, N))), ("rnn_relu_cell", (x, y, r(N, N), r(N, N))),
        ("conv1d.padding", (r(1, 2, N), r(2, 2, 3), None, [1], "same")),
        ("conv2d.padding", (image, r(2, 2, 3, 3), None, [1, 1], "same")),
        ("conv3d.padding", (r(1, 2, N, N, N), r(2, 2, 3, 3, 3), None, [1, 1, 1], "same")),
        ("linalg_vecdot", (x, y)), ("linear", (x, y)), ("_addmm_activation", (x, x, y)),
        ("scaled_dot_product_attention", (r(1, 1, N, 8), r(1, 1, N, 8), r(1, 1, N, 8))),
        ("grid_sampler", (image, r(1, N, N, 2), 0, 0, False)), ("grid_sampler_2d", (image, r(1, N, N, 2), 0, 0, False)),
        ("_grid_sampler_2d_cpu_fallback", (image, r(1, N, N, 2), 0, 0, False)),
        ("grid_sampler_3d", (r(1, 2, N, N, N), r(1, N, N, N, 3), 0, 0, False)),
        ("polar", (x, y)), ("prod", (x,)), ("prod.dim_int", (x, 0)), ("quantile", (x, torch.tensor(0.5))),
        ("quantile.scalar", (x, 0.5)), ("nanquantile", (x, torch.tensor(0.5))), ("nanquantile.scalar", (x, 0.5)),
        ("stft", (r(64), 16, None, None, None, False, None, True)), ("stft.center", (r(64), 16, None, None, None, True, "constant", False, None, True)),
        ("linalg_matrix_rank", (spd, 0.1)), ("cdist", (x, y)), ("trace", (x,)),
        ("view_as_complex", (r(N, 2),)), ("cholesky", (spd,)), ("cholesky_inverse", (spd,)), ("inverse", (spd,)),
        ("cholesky_solve", (x, spd)), ("pinverse", (x,)), ("orgqr", (x, r(N))), ("ormqr", (x, r(N), y)), ("geqrf", (x,)),
        ("max_pool3d", (r(1, 2, N, N, N), [2, 2, 2])), ("avg_pool3d", (r(1, 2, N, N, N), [2, 2, 2])),
        ("adaptive_avg_pool3d", (r(1, 2, N, N, N), [2, 2, 2])), ("adaptive_max_pool3d", (r(1, 2, N, N, N), [2, 2, 2])),
        ("fractional_max_pool2d", (image, [2, 2], [2, 2], r(1, 2, 2))),
        ("fractional_max_pool3d", (r(1, 2, N, N, N), [2, 2, 2], [2, 2, 2], r(1, 2, 3))),
        ("max_unpool2d", (image, torch.arange(N * N).view(1, 1, N, N).repeat(1, 2, 1, 1), [N, N])),
        ("max_unpool3d", (r(1, 1, 2, 2, 2), torch.arange(8).view(1, 1, 2, 2, 2), [2, 2, 2], [1, 1, 1], [0, 0, 0])),
        ("reflection_pad1d", (r(2, N), [1, 1])), ("reflection_pad2d", (image, [1, 1, 1, 1])),
        ("replication_pad1d", (r(2, N), [1, 1])), ("replication_pad2d", (image, [1, 1, 1, 1])),
        ("replication_pad3d", (r(1, 2, N, N, N), [1] * 6)),
        ("mse_loss", (x, y)), ("l1_loss", (x, y)), ("smooth_l1_loss", (x, y)), ("huber_loss", (x, y)),
        ("nll_loss", (x, labels)), ("nll_loss2d", (image, torch.zeros(1, N, N, dtype=torch.long))),
        ("cross_entropy_loss", (x, labels)), ("poisson_nll_loss", (x, y, True, False, 1e-8, 1)),
        ("hinge_embedding_loss", (x, y)), ("cosine_embedding_loss", (x, y, torch.ones(N))), ("kl_div", (x, y)),
        ("margin_ranking_loss", (r(N), r(N), torch.ones(N))), ("soft_margin_loss", (x, y)),
        ("triplet_margin_loss", (x, y, r(N, N))), ("multi_margin_loss", (x, labels)),
        ("multilabel_margin_loss", (x, torch.zeros(N, N, dtype=torch.long))),
        ("multilabel_margin_loss_forward", (x, torch.zeros(N, N, dtype=torch.long), 1)),
        ("binary_cross_entropy", (x.clamp(0, 1), y.clamp(0, 1))), ("binary_cross_entropy_with_logits", (x, y)),
        ("ctc_loss.IntList", (r(8, 2, 5).log_softmax(-1), torch.ones(2, 3, dtype=torch.long), [8, 8], [3, 3])),
        ("ctc_loss.Tensor", (r(8, 2, 5).log_softmax(-1), torch.ones(2, 3, dtype=torch.long), torch.tensor([8, 8]),
                             torch.tensor([3, 3]))),
        *[(f"fft_{f}", (x,)) for f in ("fft", "ifft", "fft2", "ifft2", "fftn", "ifftn", "rfft", "irfft", "rfft2", "irfft2",
                                       "rfftn", "irfftn", "hfft", "ihfft")],
        *[(f"linalg_{f}", (spd,)) for f in ("cond", "cholesky", "svdvals", "eigvals", "eigvalsh", "inv", "qr",
                                            "cholesky_ex", "svd", "eig", "eigh", "inv_ex")],
        ("linalg_cond.p_str", (spd, "fro")), ("linalg_matrix_rank.tol_tensor", (spd, torch.tensor(0.1))),
        ("linalg_matrix_rank.atol_rtol_tensor", (spd, torch.tensor(0.1))),
        ("linalg_matrix_rank.atol_rtol_float", (spd,)), ("linalg_solve", (spd, x)), ("linalg_lstsq", (spd, x)),
        ("linalg_householder_product", (x, r(N))), ("linalg_tensorinv", (spd.view(2, 2, 2, 2), 2)),
        ("linalg_tensorsolve", (spd, r(N))), ("fake_quantize_per_tensor_affine", (x, 0.1, 0, 0, 255)),
        ("_lu_with_info", (spd,)), ("qr", (x,)), ("svd", (x,)), ("triangular_solve", (x, spd)),
        ("stack", ([x, x.bfloat16()],)), ("cat", ([x, x.bfloat16()],)),
        ("index_copy", (x, 0, torch.tensor([0, 2]), r(2, N))),
        # From here on, on CUDA's list alone.
        ("addmv", (r(N), x, r(N))), ("addr", (x, r(N), r(N))), ("einsum", ("ij,jk->ik", [x, y])), ("mv", (x, r(N))),
        ("chain_matmul", ([x, y],)), ("linalg_multi_dot", ([x, y],)),
        *[(f, (x,)) for f in ("exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh", "cosh", "tan",
                              "asin", "acos", "erfinv", "softplus", "sum", "norm.Scalar", "nuclear_norm",
                              "linalg_vector_norm", "linalg_matrix_norm")],
        ("acos", (x.clamp(0, 0.9),)), ("pow.Tensor_Scalar", (x, 2)), ("pow.Tensor_Tensor", (x, y)), ("pow.Scalar", (2.0, x)),
        ("layer_norm", (x, [N])), ("native_layer_norm", (x, [N], None, None, 1e-5)), ("group_norm", (image, 2)),
        ("frobenius_norm.dim", (x, [0])), ("cosine_similarity", (x, y)), ("dist", (x, y)), ("pdist", (x,)),
        ("renorm", (x, 2, 0, 1.0)), ("logsumexp", (x, [0])), ("softmax.int", (x, 0)), ("log_softmax.int", (x, 0)),
        ("cumprod", (x, 0)), ("cumsum", (x, 0)), ("sum.dim_IntList", (x, [0])), ("norm.ScalarOpt_dim", (x, 2, [0])),
        ("upsample_nearest1d", (r(1, 2, N), [8])), ("upsample_nearest2d", (image, [8, 8])),
        ("upsample_nearest3d", (r(1, 2, N, N, N), [8, 8, 8])), ("_upsample_nearest_exact1d", (r(1, 2, N), [8])),
        ("_upsample_nearest_exact2d", (image, [8, 8])), ("_upsample_nearest_exact3d", (r(1, 2, N, N, N), [8, 8, 8])),
        ("upsample_linear1d", (r(1, 2, N), [8], False)), ("upsample_bilinear2d", (image, [8, 8], False)),
        ("_upsample_bilinear2d_aa", (image, [8, 8], False)), ("upsample_bicubic2d", (image, [8, 8], False)),
        ("_upsample_bicubic2d_aa", (image, [8, 8], False)), ("upsample_trilinear3d", (r(1, 2, N, N, N), [8, 8, 8], False)),
        ("addcdiv", (x, y, y)), ("addcmul", (x, y, y)), ("atan2", (x, y)), ("bilinear", (x, y, r(2, N, N))),
        ("cross", (r(N, 3), r(N, 3))), ("dot", (r(N), r(N))), ("vdot", (r(N), r(N))), ("tensordot", (x, y, [1], [0])),
        ("index_put", (x, [torch.tensor([0, 1])], r(2, N))), ("scatter_add", (x, 0, torch.zeros(1, N, dtype=torch.long), r(1, N))),
    ]


def listed(value):
    """A pickle that C++ reads has lists of one type where Python has tuples too."""
    return [listed(v) for v in value] if isinstance(value, (list, tuple)) else value


target = pathlib.Path(__file__).parent.parent / "amp" / "golden" / "autocast_cases.pt"
torch.save([(op, tuple(listed(a) for a in arguments)) for op, arguments in cases()], target)
print(f"{len(cases())} cases, {target.stat().st_size} bytes, torch {torch.__version__}")

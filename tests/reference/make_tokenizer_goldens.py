#!/usr/bin/env python3
"""Makes tests/data/golden/: two tokenizers and what the `tokenizers` package encodes with them.

    .venv/bin/python tests/reference/make_tokenizer_goldens.py     (tokenizers 0.23.3)

fragments.json           what the test text is put together from, by chunk() here and by
                         tests/data/golden_text.cpp alike
gpt2_kind.json           a tokenizer.json trained by the package on that text, merges as "a b"
llama3_kind.json         one of Llama 3's kind: Split and ByteLevel, ignore_merges, merges as
                         ["a", "b"], added tokens that are not in the model's vocabulary
encodings.json           for both: the ids of every fragment, and of every chunk the number of ids,
                         their first eight and their FNV-1a hash
"""

import json
import pathlib
import struct

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "data" / "golden"
CHUNKS, CHUNK_BYTES, VOCAB = 64, 16384, 1200
MASK = (1 << 64) - 1

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

FRAGMENTS = [
    "The river kept its own time, and nobody in the village hurried it. ",
    "She said: \"I can't come, we'll see, they've left, he'd know, I'm late, it's done, you're on!\"\n",
    "DON'T SHOUT; IT'S RUDE, WE'LL SAY, AND THEY'RE RIGHT. I'M, YOU'VE, HE'D. 'S 'T 'RE\n",
    "it\u2019s a typographic apostrophe\u2014isn\u2019t it? ",
    "'\u017f long s, '\u017fe, k'l 'l 'll'll '' 'x ",
    "def gcd(a: int, b: int) -> int:\n    while b:\n        a, b = b, a % b\n    return abs(a)\n\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += x[i] * y[i];  // dot product\n}\n",
    "#include <vector>\n\ntemplate <class T>\nstruct Box { T value; };\n",
    "if __name__ == '__main__':\n        main()\n",
    "{\"key\": [1, 2.5, -3e-7, null, true], \"path\": \"C:\\\\tmp\\\\x\"}\n",
    "SELECT name, COUNT(*) FROM runs WHERE loss < 0.125 GROUP BY name;\n",
    "x = 3.14159265358979; y = 1000000; z = 0xDEADBEEF; v = 20240520\n",
    "2024-11-05T23:59:59Z +1 (555) 010-9999 12 123 1234 12345 123456 1234567\n",
    "\u0661\u0662\u0663\u0664 \u0967\u0968\u0969 \u2160\u2161 \u00bd\u00b2\u00b3 \u4e00\u4e8c\u4e09 \U0001d7d9\U0001d7da ",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u6cb3\u8fb9\u8d70\u4e00\u8d70\u3002",
    "\u6a21\u578b\u7684\u7cbe\u5ea6\u53d6\u51b3\u4e8e\u6570\u636e\uff0c\u4e5f\u53d6\u51b3\u4e8e\u820d\u5165\uff01\n",
    "\u3053\u308c\u306f\u30c6\u30b9\u30c8\u3067\u3059\u3002\u30ab\u30bf\u30ab\u30ca\u3068\u3072\u3089\u304c\u306a\u3002",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\ub3c4 \uc788\uc2b5\ub2c8\ub2e4. ",
    "\u0627\u0644\u0646\u0647\u0631 \u0637\u0648\u064a\u0644 \u0648\u0627\u0644\u0644\u064a\u0644 \u0642\u0635\u064a\u0631\u060c \u0643\u064e\u062a\u064e\u0628\u064e ",
    "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd ",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e\u0964 ",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 ",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0421\u044a\u0435\u0448\u044c \u0435\u0449\u0451. ",
    "\u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03ba\u03cc\u03c3\u03bc\u03b5. ",
    "Zo\u00eb, na\u00efve caf\u00e9, Stra\u00dfe, \u00c6r\u00f8, \u0141\u00f3d\u017a, \u0130stanbul, ma\u00f1ana. ",
    "e\u0301 a\u0308 o\u0302\u0323 n\u0303 Z\u0351\u036b\u0343a\u0360l\u0321go ",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd \U0001f1ee\U0001f1f9 \u2764\ufe0f ",
    "\U0001f600\U0001f602\U0001f923 \u2600\u26a1\u2728 \U0001faf7\U0001fae8 ",
    "\U00010400\U00010428 \U0001d400\U0001d41a \U00020000\U0002a6df \U000313a0 \U0002ebf5 ",
    "\u180e x\u180ey \u200b\u200d\ufeff\u2060 ",
    "   ", "  \n", "\n\n\n", "\r\n", "\r\n\r\n  ", "\t\t", " \t \n \t", "\u00a0", "\u00a0\u00a0x",
    "\u3000\u3000\u3000", "\u2028\u2029", "\u0085", "\v\f", "\u1680\u2000\u2003\u200a\u202f\u205f", "        return\n",
    "\x00\x01\x02\x1b[0m\x7f\u0080\u009f", "end of line   \n   start", " ", "  ", "a", "A ", " the", "the",
    "----------------", "================\n", "################################ ", "....", "!?!?!? ",
    "\u2014\u2013\u2026\u00ab\u00bb\u201c\u201d ", "$5 \u20ac7 \u00a59 \u00a3 100% ", "a_b_c __init__ camelCaseWord HTTPServer2 ",
    "https://example.org/a?b=c&d=%20#e ", "user.name+tag@mail.example ", "<p class=\"x\">&nbsp;&lt;</p>\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abababababababababababababababab", "bbbbbbb", "xyxyxyxyxyx",
    "<|endoftext|>", " <|endoftext|>\n", "<|endoftext", "<|endof<|endoftext|>text|>", "<|begin_of_text|>",
    "<|tool|>", "<|tool|><|call|>", "<|tool|>call", "<plain>", "<plain><plain>more", "</s>",
    "unreachable", " unreachable", " \u041d\u0435\u0434\u043e\u0441\u0442\u0443\u043f\u043d\u043e ",
]  # fmt: skip


class Random:
    """SplitMix64, as mezzo/data/random.h has it."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = x = (self.state + 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    def below(self, bound):
        incomplete = (1 << 64) % bound
        while (value := self.next()) < incomplete:
            pass
        return value % bound


def chunk(index):
    random, text, size = Random(index), [], 0
    while size < CHUNK_BYTES:
        kind = random.below(8)
        if kind == 0:
            code = random.below(0x110000)
            part = chr(0xFFFD if 0xD800 <= code < 0xE000 else code)
        elif kind <= 2:
            part = "".join(chr(97 + random.below(26)) for _ in range(1 + random.below(9))) + " "
        else:
            part = FRAGMENTS[random.below(len(FRAGMENTS))]
        text.append(part)
        size += len(part.encode())
    return "".join(text)


def fnv1a(ids):
    value = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def train(pre_tokenizer, special_tokens, chunks):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chunks, trainer)
    return json.loads(tokenizer.to_str())


def gpt2_kind(chunks):
    root = train(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"], chunks)
    root["model"]["merges"] = [" ".join(pair) for pair in root["model"]["merges"]]
    return root


def added(id, content, special):
    return {
        "id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": not special, "special": special,
    }  # fmt: skip


def llama3_kind(chunks):
    splitter = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    # No merges lead to these: they are found as whole pieces or not at all.
    words = ["unreachable", " unreachable", " \u041d\u0435\u0434\u043e\u0441\u0442\u0443\u043f\u043d\u043e"]
    for word in words:
        chunks = [text.replace(word, "") for text in chunks]
    root = train(splitter, [], chunks)
    root["model"]["ignore_merges"] = True
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    for word in words:
        root["model"]["vocab"][spell(word)[0][0]] = len(root["model"]["vocab"])
    first = len(root["model"]["vocab"])
    assert first == VOCAB + len(words), "a word was reachable"
    contents = ["<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>", "<|tool|>", "<|tool|><|call|>"]
    root["added_tokens"] = [added(first + i, text, True) for i, text in enumerate(contents)]
    root["added_tokens"].append(added(first + len(contents), "<plain>", False))
    root["added_tokens"].append(added(first + len(contents) + 1, "text|>", False))
    return root


def encodings(tokenizer, chunks):
    ids_of = [tokenizer.encode(text, add_special_tokens=False).ids for text in chunks]
    return {
        "fragments": [tokenizer.encode(text, add_special_tokens=False).ids for text in FRAGMENTS],
        "chunks": [
            {"count": len(ids), "first": ids[:8], "fnv1a": f"{fnv1a(ids):016x}"} for ids in ids_of
        ],
    }


def write(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"
    (GOLDEN / name).write_text(text)
    print(f"{name}: {len(text)} bytes")


def main():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    chunks = [chunk(i) for i in range(CHUNKS)]
    print(f"{sum(len(text.encode()) for text in chunks)} bytes of text")
    expected = {"made_by": f"make_tokenizer_goldens.py, tokenizers {tokenizers.__version__}"}
    for name, root in (("gpt2_kind", gpt2_kind(chunks)), ("llama3_kind", llama3_kind(chunks))):
        write(f"{name}.json", root)
        expected[name] = encodings(Tokenizer.from_str(json.dumps(root)), chunks)
    write("fragments.json", FRAGMENTS)
    write("encodings.json", expected)


if __name__ == "__main__":
    main()

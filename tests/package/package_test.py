"""The library as another project meets it: installed and found by CMake or pkg-config, or taken in as a subproject.

SOURCE and BUILD name Mezzo's folders, TORCH the torch package it was built for, CXX the compiler, CCACHE the compiler's
launcher or nothing. What is built here is kept under BUILD/package, so that a second run is quick.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

SOURCE, BUILD, TORCH = (pathlib.Path(os.environ[name]) for name in ["SOURCE", "BUILD", "TORCH"])
CXX = os.environ["CXX"]
WORK = BUILD / "package"
PREFIX = WORK / "prefix"


def run(*command, expect=0, env=None):
    done = subprocess.run([*map(str, command)], env={**os.environ, **(env or {})}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode != expect:
        raise AssertionError(f"{shlex.join(map(str, command))} gave {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def configure(source, build, *options, expect=0):
    launcher = [f"-DCMAKE_CXX_COMPILER_LAUNCHER={os.environ['CCACHE']}"] if os.environ.get("CCACHE") else []
    return run("cmake", "-S", source, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
               f"-DCMAKE_CXX_COMPILER={CXX}", *launcher, *options, expect=expect)


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.rmtree(PREFIX, ignore_errors=True)
        run("cmake", "--install", BUILD, "--prefix", PREFIX, "--component", "library")

    def test_the_examples_build_against_the_installed_library_and_reach_their_goals(self):
        configure(SOURCE / "examples", WORK / "examples", f"-DCMAKE_PREFIX_PATH={PREFIX}")
        run("cmake", "--build", WORK / "examples")
        goals = {
            "classic_training": r"accuracy (9[5-9]|100)",
            "convolution": r"accuracy (9[5-9]|100)",
            "custom_op": r"no rule: .*largest inf\n.*fp32: .*largest [0-9.e+]+\n.*did you mean 'myops::energy'",
            "find_nan": r"aten::exp \[fp16\], forward of attention: overflow.*proved .*aten::exp in attention in fp32",
            "gradient_penalty": r"largest error 0\.[01]",
            "two_models": r"300 steps taken, error 0\.0",
        }
        self.assertEqual(sorted(path.stem for path in (SOURCE / "examples").glob("*.cpp")), sorted(goals))
        for example, goal in goals.items():
            with self.subTest(example):
                self.assertRegex(run(WORK / "examples" / example), re.compile(goal, re.DOTALL))

    def test_the_library_brings_nothing_of_the_program_along(self):
        rooms = {path.name for path in (PREFIX / "include" / "mezzo").iterdir() if path.is_dir()}
        self.assertEqual(rooms, {"amp", "base", "kernels", "numerics", "optim"})
        self.assertFalse((PREFIX / "bin").exists())
        for header in PREFIX.glob("include/**/*.h"):
            for included in re.findall(r"#include [<\"]([^>\"]+)", header.read_text()):
                self.assertTrue("/" not in included or included.startswith(("mezzo/", "ATen/", "c10/", "torch/")),
                                f"{header} includes {included}: neither libtorch's nor installed")

    def test_pkg_config_compiles_and_links_a_program(self):
        flags = run("pkg-config", "--cflags", "--libs", "mezzo", env={"PKG_CONFIG_PATH": f"{PREFIX}/lib/pkgconfig"})
        run(CXX, SOURCE / "tests/package/subproject/main.cpp", "-o", WORK / "by_pkg_config", *shlex.split(flags))
        self.assertIn("BFloat16", run(WORK / "by_pkg_config"))

    def test_another_project_takes_it_in_by_fetch_content(self):
        configure(SOURCE / "tests/package/subproject", WORK / "subproject", f"-DMEZZO_SOURCE={SOURCE}",
                  f"-DMEZZO_TORCH_ROOT={TORCH}")
        run("cmake", "--build", WORK / "subproject")
        self.assertIn("BFloat16", run(WORK / "subproject" / "uses_mezzo"))
        self.assertFalse(any(WORK.glob("subproject/**/mezzo_train*")), "only the library is built")

    def test_another_release_of_libtorch_is_refused_by_name(self):
        with tempfile.TemporaryDirectory() as folder:
            torch, build = pathlib.Path(folder, "torch"), pathlib.Path(folder, "build")
            header = torch / "include/torch/headeronly/version.h"
            header.parent.mkdir(parents=True)
            (torch / "lib").mkdir()
            (torch / "lib/libtorch_cpu.so").touch()

            def configured_with(minor):
                header.write_text("".join(f"#define TORCH_VERSION_{part} {number}\n"
                                          for part, number in [("MAJOR", 2), ("MINOR", minor), ("PATCH", 0)]))
                said = configure(SOURCE / "examples", build, f"-DCMAKE_PREFIX_PATH={PREFIX}",
                                 f"-DMEZZO_TORCH_ROOT={torch}", expect=1)
                return " ".join(said.split())

            self.assertIn("but this project uses libtorch 2.99.0", configured_with(99))
            self.assertIn("(2.9.0) is too old: Mezzo needs 2.11 or newer", configured_with(9))
            self.assertIn("found none in", " ".join(configure(SOURCE / "examples", build, f"-DCMAKE_PREFIX_PATH={PREFIX}",
                                                              f"-DMEZZO_TORCH_ROOT={folder}", expect=1).split()))

    def test_a_project_that_can_do_without_goes_on_where_there_is_no_libtorch(self):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "CMakeLists.txt").write_text(
                "cmake_minimum_required(VERSION 3.25)\nproject(can_do_without LANGUAGES CXX)\n"
                "find_package(Mezzo QUIET)\nmessage(STATUS \"found: ${Mezzo_FOUND}\")\n")
            said = configure(folder, pathlib.Path(folder, "build"), f"-DCMAKE_PREFIX_PATH={PREFIX}",
                             f"-DMEZZO_TORCH_ROOT={folder}")
            self.assertRegex(said, "found: (0|FALSE)")


if __name__ == "__main__":
    unittest.main()

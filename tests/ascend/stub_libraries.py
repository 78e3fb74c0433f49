"""Libraries that stand where CANN's would: ``python stub_libraries.py FOLDER``.

With LD_LIBRARY_PATH=FOLDER torch_npu can be imported.

Nothing computes with them: every call fails as on a machine whose driver is broken, except the few
that an import makes. Operator schemas and meta kernels need no more.
"""

import subprocess
import sys
from pathlib import Path

SYMBOLS = Path(__file__).parent / "ascendcl_symbols.txt"
"""C functions that torch_npu's libraries take from libascendcl.so, one a line."""
FAILS = 507000
"""CANN's code of an internal error of the runtime."""
EMPTY = ("hccl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel")
"""Libraries that are only loaded."""
SPECIAL = {
    "aclInit": "int aclInit(const char *path) { return 0; }",
    "aclFinalize": "int aclFinalize(void) { return 0; }",
    "aclrtGetDeviceCount": ("int aclrtGetDeviceCount(unsigned *count) { *count = 0; return 0; }"),
    "aclrtGetSocName": 'const char *aclrtGetSocName(void) { return "Ascend910B3"; }',
    "aclGetRecentErrMsg": 'const char *aclGetRecentErrMsg(void) { return "no CANN here"; }',
}
"""What an import needs an answer of."""


def source() -> str:
    """The C source of libascendcl.so."""
    functions = (
        SPECIAL.get(name, f"int {name}(void) {{ return {FAILS}; }}")
        for name in SYMBOLS.read_text().split()
    )
    return "\n".join(functions) + "\n"


def build(folder: Path) -> None:
    """Compile every library into `folder`, which LD_LIBRARY_PATH must then name."""
    for name, code in (("ascendcl", source()), *((name, "") for name in EMPTY)):
        file = folder / f"{name}.c"
        file.write_text(code)
        library = folder / f"lib{name}.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, file], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))

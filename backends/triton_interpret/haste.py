"""Making Triton's interpreter bearable: at every call of a device function it patches its language.

The launch of a kernel has patched it already, and what the patch of another module adds stays. So
one patch a module is enough, and a call costs a tenth.
"""

from typing import Any


def hasten() -> None:
    """Patch the language once a module; where the interpreter is another one, leave it as it is."""
    from triton.runtime import interpreter

    patch: Any = getattr(interpreter, "_patch_lang", None)
    function: Any = getattr(interpreter, "InterpretedFunction", None)
    if patch is None or not hasattr(function, "rewrite"):
        return
    patched: set[int] = set()

    def call(self: Any, *arguments: Any, **constants: Any) -> Any:
        module = id(self.fn.__globals__)
        if module not in patched:
            patched.add(module)
            patch(self.fn)
        return self.rewrite()(*arguments, **constants)

    function.__call__ = call

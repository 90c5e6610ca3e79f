# Loads what a script imports, waits for a word on stdin, and then runs the script as if nothing had happened before.
# None of the script's own code runs before the word: of files beside it only the import statements are read.
import sys


def _load(script, here):
    import ast
    import importlib
    import os
    from importlib.machinery import PathFinder

    def own(parts):
        """Files beside the script that the module `parts` is made of, packages first."""
        for count in range(1, len(parts) + 1):
            base = os.path.join(here, *parts[:count])
            yield from (name for name in (os.path.join(base, "__init__.py"), base + ".py") if os.path.isfile(name))

    def is_own(top):
        spec = PathFinder.find_spec(top)
        if spec is None or top in sys.builtin_module_names:
            return False
        inside = os.path.join(here, top)
        if spec.origin is None:
            return inside in list(spec.submodule_search_locations or [])
        return os.path.dirname(spec.origin) in (here, inside)

    def statements(node):
        """Everything that runs when a file is imported: all but the bodies of functions."""
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield child
                yield from statements(child)

    def wanted(path):
        """Names of modules that the file imports, each with the names it takes from there."""
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
        inside = os.path.relpath(os.path.dirname(path), here).split(os.sep)
        for node in statements(tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name.split("."), []) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = inside[: len(inside) - node.level + 1] if node.level else []
                name = node.module.split(".") if node.module else []
                yield [part for part in base if part != "."] + name, [alias.name for alias in node.names]

    def take(name, members):
        module = importlib.import_module(name)
        for member in members:
            if member != "*" and not hasattr(module, member) and hasattr(module, "__path__"):
                importlib.import_module(name + "." + member)

    todo, done = [script], set()
    while todo:
        path = os.path.abspath(todo.pop())
        if path in done:
            continue
        done.add(path)
        try:
            modules = list(wanted(path))
        except Exception:
            continue
        for parts, members in modules:
            try:
                if parts and not is_own(parts[0]):
                    take(".".join(parts), members)
                else:
                    for tail in [[]] + [[member] for member in members]:
                        todo.extend(own(parts + tail))
            except BaseException:
                pass  # the script meets it too, and says so


def _wait():
    import os

    if not os.read(0, 1):
        os._exit(1)  # whoever would have said the word is gone


def _main():
    import os
    from importlib.machinery import SourceFileLoader

    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    words = getattr(sys, "orig_argv", None)
    if words and "-c" in words:
        at = words.index("-c")
        del words[at : at + 2]
    here = os.path.dirname(os.path.realpath(script))
    if sys.path and sys.path[0] == "":
        sys.path[0] = here
    try:
        _load(script, here)
    except BaseException:
        pass
    _wait()
    path = os.path.abspath(script) if sys.version_info >= (3, 9) else script
    with open(path, "rb") as file:
        source = file.read()
    space = sys.modules["__main__"].__dict__
    builtins = space["__builtins__"]
    space.clear()
    space.update(__name__="__main__", __doc__=None, __package__=None, __loader__=SourceFileLoader("__main__", path))
    space.update(__spec__=None, __builtins__=builtins, __file__=path, __cached__=None)
    return compile(source, path, "exec", dont_inherit=True), space


exec(*_main())

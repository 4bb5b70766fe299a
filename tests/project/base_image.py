"""In place of the base images: the interpreter that runs this, with pip, copied to a folder of its own.
The one that compiles has the headers of C, too.

Not the official images: no Debian below it, and no setuptools beside its pip. Nothing leads back to the
original, which the image's user may not be able to read, and which no step may change.
"""

import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

NOT_COPIED = (
    *("test", "tests", "idle_test"),  # nor has the base image
    *("site-packages", "dist-packages", "EXTERNALLY-MANAGED"),  # the machine's
    *(
        "config-*",
        "idlelib",
        "lib2to3",
        "tkinter",
        "turtledemo",
    ),  # nobody asks for them, and copying takes time
)


def install_python(local: Path) -> None:
    """Install Python where the base image has it, in `/usr/local`."""
    standard = Path(sysconfig.get_path("stdlib"))
    ignored = shutil.ignore_patterns(*NOT_COPIED)
    shutil.copytree(standard, local / standard.relative_to(sys.base_prefix), ignore=ignored, symlinks=True)
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        for library in Path(sysconfig.get_config_var("LIBDIR")).glob("libpython*.so*"):
            shutil.copy2(library, local / "lib", follow_symlinks=False)
    python = local / "bin" / f"python{sysconfig.get_python_version()}"
    python.parent.mkdir()
    shutil.copy2(Path(sys._base_executable).resolve(), python)  # type: ignore[attr-defined]
    for name in ("python", "python3"):
        (python.parent / name).symlink_to(python.name)
    _install_pip(python)


def install_headers(local: Path) -> None:
    """What C needs to speak with that Python. Not the slim base's, where nothing is compiled."""
    headers = Path(sysconfig.get_path("include"))
    shutil.copytree(headers, local / headers.relative_to(sys.base_prefix))


def _install_pip(python: Path) -> None:
    """The one that set up these tests. Where it goes, Debian's Python answers in a way of its own."""
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    libraries = {"LD_LIBRARY_PATH": str(python.parent.with_name("lib"))}
    site_packages = Path(subprocess.check_output(where, env=libraries, text=True, timeout=10).strip())
    pip = distribution("pip")
    for file in pip.files or []:
        if ".." not in file.parts:  # scripts, which `python -m pip` can do without
            target = site_packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(Path(str(pip.locate_file(file))), target)

"""Programs that start at once: forks of a process that has already imported the large libraries.

Importing torch or DVC takes seconds, and the tests start about two hundred programs that need
them. `programs` is a folder with programs named python, dvc and cace. Each asks a server for a fork
of itself. The fork takes over the program's arguments, environment, current folder and open
files, and imports the modules of the project, which the server has not imported.

A fork is not a child of the program that asked for it: a test that kills or limits a process must
run the real program.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import marshal
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from pathlib import Path

LIBRARIES = (
    *("av", "dvc.cli.parser", "dvc.repo.experiments.queue.celery", "dvc.repo.open_repo"),
    *("dvc.utils.strictyaml", "filelock", "h5py", "jaxtyping", "pandas", "pydantic", "pygit2"),
    *("scipy.stats", "soxr", "torch._dynamo", "torchvision"),
)
PROGRAM = """\
#!{python} -IS
import marshal, os, socket, sys
if "{name}" == "python" and sys.argv[1:2] not in (["-m"], ["-c"]):
    os.execv("{python}", ["{python}", *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect("{address}")
socket.send_fds(server, [b"!"], [0, 1, 2])
server.sendall(marshal.dumps(("{name}", sys.argv[1:], os.getcwd(), dict(os.environ))))
server.shutdown(socket.SHUT_WR)
status = int(server.recv(8))
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@functools.cache
def programs() -> Path:
    """Starts the server, once; returns the folder of the programs."""
    folder = Path(tempfile.mkdtemp())  # short: it is part of an address
    for name in ("python", "dvc", "cace"):
        text = PROGRAM.format(python=sys.executable, name=name, address=folder / "server")
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    command = [sys.executable, __file__, str(folder / "server")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    server.stdout.read(1)  # it is ready

    def end():
        server.communicate()
        shutil.rmtree(folder)

    atexit.register(end)
    return folder


def serve(address: str) -> socket.socket | None:
    """Returns in each fork, with the connection to its program; in the server, at the end."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    ended, end = socket.socketpair()  # becomes readable when a fork has ended
    end.setblocking(False)
    signal.set_wakeup_fd(end.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    programs: dict[int, socket.socket] = {}
    os.write(1, b"!")
    # Until the standard input, which gets nothing, is closed.
    while 0 not in (ready := select.select([listener, ended, 0], [], [])[0]):
        if ended in ready:
            ended.recv(4096)
            while programs and (found := os.waitpid(-1, os.WNOHANG))[0]:
                with programs.pop(found[0]) as program, contextlib.suppress(BrokenPipeError):
                    program.sendall(str(os.waitstatus_to_exitcode(found[1])).encode())
        if listener in ready:
            program, _ = listener.accept()
            if (child := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in (listener, ended, end, *programs.values()):
                    other.close()
                return program
            programs[child] = program
    return None


def become(program: socket.socket) -> None:
    """Runs what the program was started for."""
    _, files, _, _ = socket.recv_fds(program, 1, 3)
    with program.makefile("rb") as stream:
        name, arguments, folder, environment = marshal.load(stream)
    program.close()
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.fsync = lambda file: None  # as in the tests themselves: see tests/conftest.py
    status = 0
    try:
        run(name, arguments, folder)
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
    except BaseException:
        status = 1
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)  # freeing all that the libraries hold would take longer than the fork


def run(name: str, arguments: list[str], folder: str) -> None:
    """As the interpreter does it."""
    if name != "python":
        script = Path(sys.executable).parent / name
        sys.path[0], sys.argv = str(script.parent), [str(script), *arguments]
        runpy.run_path(str(script), run_name="__main__")
        return
    kind, what, *rest = arguments
    sys.path[0], sys.argv = folder, [kind, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(what, main.__dict__)


if __name__ == "__main__":
    if connection := serve(sys.argv[1]):
        become(connection)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()

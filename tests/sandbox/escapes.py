"""Programs that try to get out: each runs to its end only if it got what it wanted.

`{home}` is the home with the token, `{outside}` a folder of the host in /tmp, `{repository}` this checkout, `{port}` a
server on loopback, `{unix}` a socket in a file, `{runner}` the process that runs them.
"""

_C = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"

NETWORK = {
    "tcp": "import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)",
    "udp": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "unix socket": "import socket; socket.socket(socket.AF_UNIX).connect({unix!r})",
    "name lookup": "import socket; socket.getaddrinfo('localhost', {port})",
    "url": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/', timeout=1)",
    "raw system call": _C + "assert libc.syscall(41 if os.uname().machine == 'x86_64' else 198, 2, 1, 0) >= 0",
}
WRITES = {
    "file in the home": "open({home!r} + '/new', 'w').write('x')",
    "file in the host's /tmp": "open({outside!r} + '/new', 'w').write('x')",
    "file in the repository": "open({repository!r} + '/new-by-program', 'w').write('x')",
    "overwrite": "open({outside!r} + '/kept', 'w').write('x')",
    "append": "open({outside!r} + '/kept', 'a').write('x')",
    "truncate by opening": "import os; os.open({outside!r} + '/kept', os.O_RDONLY | os.O_TRUNC)",
    "truncate": "import os; os.truncate({outside!r} + '/kept', 0)",
    "delete": "import os; os.remove({outside!r} + '/kept')",
    "delete a tree": "import shutil; shutil.rmtree({outside!r})",
    "rename": "import os; os.rename({outside!r} + '/kept', {outside!r} + '/moved')",
    "rights": "import os; os.chmod({outside!r} + '/kept', 0o777)",
    "times": "import os; os.utime({outside!r} + '/kept', (0, 0))",
    "folder": "import os; os.mkdir({outside!r} + '/folder')",
    "symbolic link": "import os; os.symlink({outside!r} + '/kept', 'link'); open('link', 'w').write('x')",
    "hard link": "import os; os.link({outside!r} + '/kept', 'link')",
    "Python's own library": "import os; open(os.__file__, 'a').write('x')",
    "way up": "import os; os.chdir('/'); os.chroot('.'); open('../' * 30 + {outside!r} + '/new', 'w').write('x')",
}
READS = {
    "token file": "assert open({home!r} + '/token').read() == 'hf_planted'",
    "token in the environment": "import os; assert os.environ['HF_TOKEN']",
    "environment of this process": "assert 'hf_planted' in open('/proc/self/environ').read()",
    "environment of the runner": "assert 'hf_planted' in open('/proc/{runner}/environ').read()",
    "memory of the runner": "open('/proc/{runner}/mem', 'rb').read(1)",
    "passwords": "open('/etc/passwd').read()",
    "list of the home": "import os; os.listdir({home!r})",
    "open descriptors": (
        "import os, stat\nfound = []\nfor fd in range(3, 64):\n    try: mode = os.fstat(fd).st_mode\n"
        "    except OSError: continue\n    found.append(stat.S_ISFIFO(mode))\nassert found != [True], 'only its report'"
    ),
    "device": "open('/dev/mem', 'rb').read(1)",
}
PROCESSES = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "threads": "import threading\nfor _ in range(3): threading.Thread(target=lambda: None).start()",
    "shell": "import os; assert os.system('true') == 0",
    "subprocess": "import subprocess; subprocess.run(['/bin/true'], check=True)",
    "another program": "import os; os.execv('/bin/true', ['true'])",
    "pool": "import multiprocessing; multiprocessing.Pool(2).map(abs, [1])",
    "survivor": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(1); open({outside!r} + '/survived', 'w').write('x')"
    ),
    "clone by system call": _C
    + "assert libc.syscall(56 if os.uname().machine == 'x86_64' else 220, 17, 0, 0, 0, 0) > 0",
    "kill everything": "import os; os.kill(-1, 9)",
    "kill the parent": "import os; os.kill(os.getppid() or {runner}, 9)",
    "kill the runner": "import os; os.kill({runner}, 9)",
    "kill the group": "import os; os.killpg(0, 9)",
    "signal by descriptor": (
        "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, 8, {runner}); fcntl.fcntl(r, 10, 9)"  # F_SETOWN, F_SETSIG
    ),
    "trace the parent": _C + "assert libc.ptrace(16, os.getppid() or {runner}, 0, 0) == 0",
}
RIGHTS = {
    "become root": "import os; os.setuid(0); os.setgid(0); os.setgroups([0])",
    "own namespaces": _C + "assert libc.unshare(0x10020000) == 0",
    "mount": _C + "assert libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0",
    "lift a limit": "import resource as r; r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
    "limits of the runner": "import resource as r; r.prlimit({runner}, r.RLIMIT_NOFILE, (16, 16))",
    "nice": "import os; os.setpriority(os.PRIO_PROCESS, {runner}, 19)",
    "shared memory": _C + "assert libc.shmget(1, 4096, 0o1666) >= 0",
    "io_uring": _C + "p = ctypes.create_string_buffer(256); assert libc.syscall(425, 4, p) >= 0",
    "no filter": _C + "assert libc.prctl(22, 0, 0, 0, 0) == 0",
}
RESOURCES = {
    "10 GB": "x = bytearray(10 * 2**30)",
    "10 GB bit by bit": "x = []\nwhile len(x) < 10 * 2**10: x.append(bytearray(2**20))",
    "10 GB mapped": "import mmap; mmap.mmap(-1, 10 * 2**30)",
    "full disk": "for i in range(10**6):\n    with open(str(i), 'wb') as f: f.write(bytes(2**20))",
    "one large file": "with open('large', 'wb') as f:\n    for _ in range(10**4): f.write(bytes(2**20))",
    "many descriptors": "import os\nfor _ in range(10**4): os.dup(0)",
    "endless output": "while True: print('x' * 1000)",
    "endless errors": "import sys\nwhile True: sys.stderr.write('x' * 1000)",
    "endless report": (
        "import os\nfor fd in range(3, 64):\n    try:\n        while True: os.write(fd, b'x' * 1000)\n"
        "    except OSError: pass\nraise SystemExit"
    ),
    "endless loop": "while True: pass",
    "endless sleep": "import time; time.sleep(10**6)",
    "deaf": (
        "import signal\nfor n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\n"
        "while True: pass"
    ),
    "crash": "import ctypes; ctypes.string_at(0)",
    "deep recursion": "import sys; sys.setrecursionlimit(10**9)\ndef f(): return [*map(lambda _: f(), [0])]\nf()",
}
ALL = {
    f"{family}: {name}": program
    for family, programs in (
        ("network", NETWORK), ("write", WRITES), ("read", READS), ("process", PROCESSES), ("right", RIGHTS),
        ("resource", RESOURCES),
    )
    for name, program in programs.items()
}  # fmt: skip
SLOW = ("resource: endless loop", "resource: endless sleep", "resource: deaf")  # the same in every world

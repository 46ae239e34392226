"""Ordinary programs under narrow policies: the same output, the same files, the same end as without FailCore.

Each policy is what a user would write for that program: a preset and a few grants. A program that is not installed is
skipped with that reason.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, World, only

pytestmark = only("kernel")

NATIVE = """
version = 1
extends = ["preset:native"]
[fs]
write = ["./work"]
"""
PYTHON = NATIVE.replace("preset:native", "preset:python")


def needs(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program, path="/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"):
            pytest.skip(f"there is no {program} here")


def tree(directory: Path, leave_out: Callable[[str], bool]) -> dict[str, tuple[Any, ...]]:
    """What is below a directory: kinds, modes, links and contents."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if leave_out(name):
            continue
        at = path.lstat()
        what: Any = None
        if stat.S_ISLNK(at.st_mode):
            what = os.readlink(path)
        elif stat.S_ISREG(at.st_mode):
            what = path.read_bytes()
        found[name] = (oct(at.st_mode), at.st_nlink if stat.S_ISREG(at.st_mode) else 0, what)
    return found


def own(text: str) -> list[str]:
    """What the program said, without FailCore's lines."""
    return [line for line in text.splitlines() if not line.startswith("failcore: ")]


def same(
    world: World,
    argv: Sequence[str],
    policy: str,
    files: Mapping[str, str] = {},
    *,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    leave_out: Callable[[str], bool] = lambda name: False,
    refused: Sequence[str] = (),
    timeout: float = 120,
) -> Run:
    """Runs a command in a workspace with these files, without FailCore and under it, and compares what comes of it.

    Nothing may be refused on the way but what `refused` mentions, which the program does without, and the name service's
    cache, which looks names up outside the run.
    """

    def fill() -> None:
        shutil.rmtree(world.work)
        for name, text in {"agent.py": "", **files}.items():
            (world.work / name).parent.mkdir(parents=True, exist_ok=True)
            (world.work / name).write_text(text)
        world.hand_over()

    fill()
    plain = subprocess.run(
        [*world.as_user, *argv],
        cwd=world.work,
        env={**world.environ(env), "PYTHONDONTWRITEBYTECODE": "1"},
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    without = tree(world.work, lambda name: name == "agent.py" or leave_out(name))
    fill()
    run = world.run("", argv=argv, policy=policy, stdin=stdin, env=env, timeout=timeout)
    within = tree(world.work, lambda name: name == "agent.py" or leave_out(name))
    assert (run.code, run.out.splitlines()) == (plain.returncode, plain.stdout.splitlines()), run.explain()
    assert own(run.err) == own(plain.stderr), run.explain()
    differ = {name for name in {*within, *without} if within.get(name) != without.get(name)}
    assert not differ, (
        f"{[(name, within.get(name), without.get(name)) for name in sorted(differ)][:9]}\n" + run.explain()
    )
    more = [r for r in run.denied() if r["decision"]["reason"] != "absent"]
    more = [
        r
        for r in more
        if not any(one in json.dumps(r["request"]["action"]) for one in [*refused, "/run/nscd/socket"])
    ]
    assert not more, run.explain()
    return run


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-eu", "-c", script]


GIT = (
    NATIVE.replace("[fs]", '[fs]\nread = ["/usr/share/git-core", "/usr/local/share/git-core"]')
    + """
[process]
exec = ["git", "/usr/lib/git-core/*", "/usr/local/libexec/git-core/*", "/bin/sh"]
[env]
pass = ["GIT_*"]
"""
)
GIT_ENV = {
    # Without templates no hooks are made, which every preset cautions against: they run later, outside the gate.
    "GIT_TEMPLATE_DIR": "",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "c",
    "GIT_COMMITTER_EMAIL": "c@example.com",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}


def test_git(world: World) -> None:
    needs("git")
    same(
        world,
        shell("""
git init -q -b main origin 2>&1
cd origin
for i in 1 2 3; do echo $i > file$i; mkdir -p d$i; echo $i > d$i/x; git add .; git commit -q -m "commit $i"; done
git tag v1; git switch -q -c side HEAD~1; echo other > side; git add side; git commit -q -m side
git switch -q main; git merge -q -m merged side
cd ..
git clone -q ./origin copy
cd copy
git log --oneline --graph; git status; git mv file1 moved; git commit -q -m moved; git diff HEAD~1 --stat
git stash list; git rebase -q HEAD~1; git gc -q; git fsck --no-progress; git rev-parse HEAD; git archive HEAD | wc -c
git push -q origin HEAD:refs/heads/pushed; git worktree add -q ../tree v1; ls ../tree; git grep -n 1 || true
"""),
        GIT.replace('"/bin/sh"', '"/bin/sh", "/usr/bin/wc", "/usr/bin/ls", "/usr/bin/mkdir"'),
        env=GIT_ENV,
        leave_out=lambda name: (
            name.endswith(("/index", "/COMMIT_EDITMSG")) or "/logs/" in name or ".git/objects/pack" in name
        ),
    )


COMPILER = (
    NATIVE.replace("[fs]", '[fs]\nread = ["/usr/include", "/usr/local/include", "/usr/share/gcc*"]')
    + """
[process]
exec = ["/bin/sh", "cc", "make", "/usr/bin/*gcc*", "/usr/bin/*-as", "/usr/bin/*-ld*", "/usr/bin/*-ar", "/usr/bin/{as,ld,ar,strip,ldd}",
        "/usr/lib/gcc/**", "/usr/libexec/gcc/**", "./work/*"]
"""
)
C_FILES = {
    "main.c": '#include <stdio.h>\n#include "part.h"\nint main(void) { printf("%d\\n", part(20)); return part(1); }\n',
    "part.h": "int part(int);\n",
    "part.c": '#include "part.h"\n#include <math.h>\nint part(int n) { return (int)sqrt(n * n) + 1; }\n',
    "broken.c": "int main(void) { return missing; }\n",
    "Makefile": """
all: program static.a
program: main.o part.o
	$(CC) -o $@ $^ -lm
%.o: %.c part.h
	$(CC) -O2 -Wall -c -o $@ $<
static.a: part.o
	ar rcsD $@ $^
test: program
	./program; test $$? = 2 && echo tested
clean:
	rm -f *.o program static.a
.PHONY: all test clean
""",
}


def test_a_compiler(world: World) -> None:
    needs("cc")
    same(
        world,
        shell("""
cc -O1 -Wall -o program main.c part.c -lm; ./program || echo "ended with $?"
cc -c -g part.c -o part.o; cc -shared -fPIC -o libpart.so part.c -lm
cc -o linked main.c -L. -lpart -Wl,-rpath,"$PWD"; ./linked || echo "ended with $?"
cc -pipe -save-temps -c main.c; cc -M main.c | head -c 20; echo; cc broken.c || echo "refused with $?"
"""),
        COMPILER.replace('"./work/*"', '"./work/*", "head"'),
        C_FILES,
    )


def test_make(world: World) -> None:
    needs("make", "cc")
    policy = COMPILER.replace('"./work/*"', '"./work/*", "rm"')
    same(
        world,
        shell("make -j4 -s; make test; make -q && echo done; touch part.h; make -n; make clean; ls"),
        policy.replace('"rm"', '"rm", "touch", "ls"'),
        C_FILES,
    )


NODE = (
    NATIVE.replace("[fs]", '[fs]\nread = ["./work", "/usr/share/nodejs", "/usr/share/node_modules"]')
    + """
[process]
exec = ["node", "/bin/sh", "echo", "cat"]
signal = "children"
[net]
connect = ["127.0.0.1:1024-65535"]
listen = ["127.0.0.1:0"]
"""
)
NODE_SCRIPT = """
const fs = require('fs'), cp = require('child_process'), http = require('http'), path = require('path'), os = require('os');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
if (!isMainThread) {
  parentPort.postMessage(workerData + fs.readFileSync('made/a', 'utf8').length);
} else (async () => {
  fs.mkdirSync('made/b/c', { recursive: true });
  fs.writeFileSync('made/a', 'text');
  fs.appendFileSync('made/a', ' more');
  await Promise.all([...Array(50).keys()].map(n => fs.promises.writeFile(`made/b/${n}`, `${n}`)));
  fs.renameSync('made/b/1', 'made/b/renamed'); fs.unlinkSync('made/b/2'); fs.symlinkSync('a', 'made/link');
  fs.copyFileSync('made/a', 'made/copied'); fs.chmodSync('made/copied', 0o600); fs.truncateSync('made/copied', 2);
  fs.linkSync('made/a', 'made/hard'); fs.rmSync('made/b/c', { recursive: true });
  fs.createReadStream('made/a').pipe(fs.createWriteStream('made/streamed'));
  console.log(fs.readdirSync('made/b').length, fs.realpathSync('made/link') === path.resolve('made/a'));
  console.log(cp.execSync('echo from a shell').toString(), cp.spawnSync('cat', { input: 'through cat' }).stdout.toString());
  const child = cp.fork(__filename.replace('main', 'child'));
  console.log(await new Promise(done => child.on('message', done)));
  child.kill(); console.log('killed', await new Promise(done => child.on('exit', (_, signal) => done(signal))));
  const workers = await Promise.all([1, 2, 3].map(n => new Promise((done, fail) => {
    const worker = new Worker(__filename, { workerData: n }); worker.on('message', done); worker.on('error', fail); })));
  console.log(workers);
  const server = http.createServer((request, response) => response.end(`you asked ${request.url}`));
  await new Promise(done => server.listen(0, '127.0.0.1', done));
  const answer = await new Promise(done => http.get({ port: server.address().port, host: '127.0.0.1', path: '/x' }, response => {
    let body = ''; response.on('data', piece => body += piece); response.on('end', () => done(body)); }));
  console.log(answer); server.close();
  const watcher = fs.watch('made'); fs.writeFileSync('made/watched', 'x');
  console.log(await new Promise(done => watcher.once('change', (_, name) => done(name)))); watcher.close();
  try { fs.readFileSync('made/missing'); } catch (error) { console.log(error.code); }
  process.exitCode = 3;
})();
"""


def test_node(world: World) -> None:
    needs("node")
    files = {
        "main.js": NODE_SCRIPT,
        "child.js": "process.send({ from: 'child', pid: process.pid > 1 }); setInterval(() => 0, 1000);",
    }
    run = same(world, ["node", "main.js"], NODE, files)
    assert run.code == 3


SQL = """
PRAGMA journal_mode = WAL;
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT);
BEGIN; INSERT INTO t (name) VALUES ('a'), ('b'), ('c'); COMMIT;
BEGIN; DELETE FROM t; ROLLBACK;
SELECT count(*), group_concat(name) FROM t;
VACUUM; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA integrity_check;
CREATE INDEX i ON t (name); EXPLAIN QUERY PLAN SELECT * FROM t WHERE name = 'a';
WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000) INSERT INTO t (name) SELECT 'row' || x FROM n;
SELECT count(*) FROM (SELECT DISTINCT name FROM t ORDER BY name DESC);
"""


def test_sqlite(world: World) -> None:
    needs("sqlite3")
    same(world, ["sqlite3", "work.db"], NATIVE, stdin=SQL)
    same(
        world,
        [
            "sqlite3",
            "-batch",
            "work.db",
            ".mode csv",
            ".import rows.csv t",
            "select sum(a) from t",
            ".backup copy.db",
        ],
        NATIVE,
        {"rows.csv": "a,b\n1,2\n3,4\n"},
    )


TOOLS = (
    NATIVE
    + """
[process]
exec = ["/bin/sh", "/usr/bin/*"]
signal = "run"
"""
)


def test_archives(world: World) -> None:
    needs("tar", "gzip")
    files = {f"in/{n % 7}/{n}": "text\n" * n for n in range(60)}
    same(
        world,
        shell("""
umask 022; chmod 640 in/1/1; ln -s 1 in/1/link; ln in/1/1 in/1/hard; mkfifo in/fifo; touch -d 2020-01-02 in/2/2
tar -cf a.tar --sort=name in; tar -tf a.tar | wc -l; mkdir out; tar -C out -xpf a.tar; diff -r --no-dereference in/1 out/in/1
tar --mtime=2020-01-01 -cf - in/3 | gzip -9n > b.tar.gz; gzip -t b.tar.gz; gunzip -c b.tar.gz | tar -tf - | sort
tar --delete -f a.tar in/3; tar -rf a.tar in/3; gzip -kn in/4/4; gunzip -f in/4/4.gz; xz -k in/5/5 2>/dev/null || echo no xz
cp -a in copy; cp -r --reflink=auto in/5 copy5; mv copy5 moved; stat -c '%a %h %F' copy/1/* | sort; find out -newer a.tar -print
dd if=in/6/6 of=dd bs=7 count=3 conv=fsync 2>/dev/null; truncate -s 100 dd; install -m 700 dd installed; rm -r out copy a.tar
mktemp -d made.XXXXXX | cut -c1-5; rmdir made.*; split -b 10 installed part; cat part* | cmp - installed; shred -u partaa
"""),
        TOOLS,
        files,
    )
    if shutil.which("zip") and shutil.which("unzip"):
        same(
            world,
            shell("zip -qrX a.zip in; unzip -q a.zip -d out; diff -r in out/in; rm a.zip; ls out/in | wc -l"),
            TOOLS,
            files,
        )


def test_searching(world: World) -> None:
    files = {f"{n % 5}/deep/{n}.txt": f"line {n}\nneedle {n % 3}\n" for n in range(200)}
    same(
        world,
        shell("""
find . -name '*.txt' | wc -l; find . -type f -size -1k -exec grep -l 'needle 2' {} + | sort | tail -3
grep -rn 'needle 1' . | sort | head -3; grep -c . 1/deep/1.txt missing || echo "$?"
find . -print0 | xargs -0 -n 20 -P 4 ls -d | wc -l; find . -name '1*' -delete; ls | sort; du -a --apparent-size . | wc -l
sed -i s/needle/thread/ 0/deep/0.txt; awk '{ n += NF } END { print n }' 0/deep/*.txt; sort -R 0/deep/5.txt | sort; tr a-z A-Z < 0/deep/5.txt | tee up
comm -12 0/deep/0.txt 0/deep/5.txt || true; cat 2/deep/*.txt | uniq -c | sort -n | tail -1; tac up; rev up; od -c up | head -2; md5sum up
"""),
        TOOLS,
        files,
    )


def test_a_shell(world: World) -> None:
    needs("bash")
    same(
        world,
        [
            "bash",
            "-c",
            r"""
set -m
sleep 100 & job=$!; jobs -r | wc -l; kill %1; wait $job; echo "ended $?"
(exit 7) & wait $!; echo $?; { echo in; echo err >&2; } 2>&1 | cat -n
cat <<END | tr a-z A-Z
here $((6 * 7)) ${HOME:+home} $(echo inner)
END
exec 2>/dev/null
cat <<<"a string"; cat < <(echo substituted) > >(cat > through); while ! [ -s through ]; do sleep 0.01; done; cat through
exec 5<>file; echo written >&5; exec 5>&-; read -r line < file; echo "$line"; coproc up { cat; }; echo to >&"${up[1]}"; read -r got <&"${up[0]}"; echo "$got"; kill $up_PID
trap 'echo trapped' USR1; kill -USR1 $$; trap 'echo bye' EXIT
sh -c 'kill -STOP $$; echo continued' & stopped=$!; while ! grep -q T /proc/$stopped/stat 2>/dev/null; do sleep 0.01; case $((n++)) in 300) break;; esac; done; fg %+ >/dev/null
for f in a b c; do echo $f > $f; done; echo [a-c]; [[ -f a && ! -e z ]]; echo $?; shopt -s nullglob; echo z*; mapfile -t lines < <(ls); echo ${#lines[@]}
printf '%s
' {1..3} | while read -r n; do echo $((n * n)); done; ulimit -n 64; ulimit -n; set -o noclobber; echo x > a || echo kept; umask 077; echo x > private
echo "$BASH_SUBSHELL" $(echo $BASH_SUBSHELL); time_format=1; { sleep 0.01 & wait; }; false | true; echo "${PIPESTATUS[@]}"; exit 9
""",
        ],
        TOOLS.replace('"/bin/sh"', '"/bin/sh", "bash"').replace("[fs]", '[fs]\nread = ["/proc/*/stat"]'),
    )


def test_perl(world: World) -> None:
    needs("perl")
    same(
        world,
        [
            "perl",
            "-MFile::Find",
            "-MFile::Temp=tempfile",
            "-MFile::Copy",
            "-MSocket",
            "-MPOSIX",
            "-e",
            r"""
open my $f, '>', 'a' or die; print $f "x$_
" for 1..5; close $f; copy('a', 'b'); rename 'b', 'c'; chmod 0600, 'c'; utime 1, 2, 'c';
mkdir 'd'; symlink 'a', 'd/l'; print join(',', map { sprintf '%o', (stat)[2] } 'a', 'c', 'd'), "
"; find(sub { push @n, $File::Find::name }, '.'); print scalar(@n), "
";
my $pid = fork; if (!$pid) { sleep 60; exit } kill 'TERM', $pid; waitpid $pid, 0; print $? & 127, "
"; print `echo backticks`; system('sh -c "exit 3"'); print $? >> 8, "
";
socketpair(my $l, my $r, AF_UNIX, SOCK_STREAM, PF_UNSPEC); syswrite $l, 'pair'; sysread $r, my $got, 4; print "$got
"; my ($t) = tempfile(); print {$t} "tmp
"; seek $t, 0, 0; print scalar <$t>;
open my $p, '-|', 'cat', 'a' or die; print scalar(() = <$p>), "
"; print open(my $no, '<', 'missing') ? '' : $! + 0, "
"; local $SIG{ALRM} = sub { print "alarm
" }; alarm 1; pause; exit 4
""",
        ],
        TOOLS.replace("[fs]", '[fs]\nread = ["/usr/share/perl*", "/etc/perl"]'),
    )


def compiled(world: World, source: str, *options: str) -> str:
    """A C program, compiled beside the workspace."""
    needs("cc")
    made = world.base / "programs" / "program"
    made.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        ["cc", "-O1", "-o", made, "-x", "c", "-", *options], input=source, text=True, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"cc {' '.join(options)}: {done.stderr[-200:]}")
    return str(made)


STATIC = """
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void *thread(void *name) { FILE *f = fopen(name, "w"); fprintf(f, "by a thread\\n"); fclose(f); return 0; }
int main(void) {
    pthread_t t;
    pthread_create(&t, 0, thread, "thread"); pthread_join(t, 0);
    if (!fork()) { rename("thread", "moved"); _exit(5); }
    int status; wait(&status); printf("%d\\n", WEXITSTATUS(status)); fflush(stdout);
    FILE *p = popen("echo a shell", "r"); char line[99]; fputs(fgets(line, 99, p), stdout); printf("%d\\n", pclose(p));
    printf("%d\\n", open("/etc/hostname.missing", O_RDONLY));
    return 6;
}
"""


def test_a_static_program(world: World) -> None:
    program = compiled(world, STATIC, "-static", "-pthread")
    same(world, [program], NATIVE + '[process]\nexec = ["/bin/sh"]\n')


RAW = """
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
static long call(long n, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return n;
}
#define C(n, ...) call6(n, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define call6(n, a, b, c, d, e, f, ...) call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
static void say(long n) { char digits[20], *at = digits + 20; *--at = 10; long m = n < 0 ? -n : n;
    do *--at = '0' + m % 10; while (m /= 10); if (n < 0) *--at = '-'; C(SYS_write, 1, at, digits + 20 - at); }
void _start(void) {
    say(C(SYS_openat, AT_FDCWD, "raw", O_CREAT | O_RDWR, 0644));
    say(C(SYS_open, "raw", O_RDONLY)); say(C(SYS_creat, "made", 0600)); say(C(SYS_mkdir, "d", 0755)); say(C(SYS_link, "raw", "d/link"));
    say(C(SYS_rename, "made", "d/moved")); say(C(SYS_symlink, "raw", "s")); say(C(SYS_chmod, "raw", 0600)); say(C(SYS_unlink, "missing"));
    long child = C(SYS_vfork, 0); if (!child) C(SYS_exit, 3);
    int status = 0; C(SYS_wait4, child, &status, 0, 0); say(status >> 8);
    child = C(SYS_clone, 17, 0); if (!child) C(SYS_exit, C(SYS_mkdir, "by_clone", 0700) ? 1 : 4);
    C(SYS_wait4, child, &status, 0, 0); say(status >> 8);
    say(C(SYS_openat, -1, "raw", 0)); say(C(SYS_open, 8, 0)); say(C(SYS_kill, C(SYS_getpid, 0), 0)); say(C(SYS_socket, 2, 1, 0));
    C(SYS_exit_group, 7);
}
"""


def test_a_program_without_a_c_library(world: World) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("its calls are written for x86-64")
    program = compiled(world, RAW, "-static", "-nostdlib", "-fno-stack-protector", "-fcf-protection=none")
    policy = NATIVE + '[process]\nsignal = "self"\n'
    assert same(world, [program], policy).code == 7


def test_a_rust_program(world: World) -> None:
    rustc = shutil.which("rustc")
    if not rustc:
        pytest.skip("there is no rustc here")
    source = world.base / "program.rs"
    source.write_text("""
use std::{fs, io::Write, net, process::Command, thread};
fn main() -> std::io::Result<()> {
    fs::create_dir_all("a/b/c")?; fs::write("a/b/file", "text")?; fs::copy("a/b/file", "a/copy")?; fs::rename("a/b/file", "a/moved")?;
    let made: Vec<_> = (0..20).map(|n| thread::spawn(move || fs::File::create(format!("a/{n}")).and_then(|mut f| writeln!(f, "{n}")).is_ok())).collect();
    println!("{}", made.into_iter().filter_map(|t| t.join().ok()).filter(|ok| *ok).count());
    let server = net::TcpListener::bind("127.0.0.1:0")?; let client = net::TcpStream::connect(server.local_addr()?)?; server.accept()?; drop(client);
    println!("{:?}", Command::new("/bin/sh").args(["-c", "echo hello; exit 3"]).output()?.status.code());
    println!("{:?}", fs::read_dir("a")?.count()); fs::remove_dir_all("a/b")?;
    println!("{:?}", fs::read("missing").map_err(|e| e.kind()));
    println!("{:?}", fs::metadata("a/moved")?.len()); Ok(())
}
""")
    built = subprocess.run([rustc, "-O", "-o", world.base / "rust", source], capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"rustc makes no program here: {built.stderr[-200:]}")
    same(
        world,
        [str(world.base / "rust")],
        NATIVE
        + '[process]\nexec = ["/bin/sh"]\n[net]\nlisten = ["127.0.0.1:0"]\nconnect = ["127.0.0.1:1024-65535"]\n',
    )


MANY_THREADS = """
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
enum { THREADS = 2000 };
static pthread_barrier_t all;
static int opened;
static void *one(void *number) {
    char name[32];
    snprintf(name, sizeof name, "d%ld", (long)number % 50);
    pthread_barrier_wait(&all);
    int fd = open(name, O_CREAT | O_WRONLY, 0644);
    if (fd >= 0) { __sync_fetch_and_add(&opened, 1); close(fd); }
    return 0;
}
int main(void) {
    pthread_attr_t small; pthread_attr_init(&small); pthread_attr_setstacksize(&small, 65536);
    static pthread_t threads[THREADS];
    pthread_barrier_init(&all, 0, THREADS);
    for (long n = 0; n < THREADS; n++) if (pthread_create(&threads[n], &small, one, (void *)n)) return 2;
    for (int n = 0; n < THREADS; n++) pthread_join(threads[n], 0);
    printf("%d\\n", opened);
    return 0;
}
"""


def test_thousands_of_threads(world: World) -> None:
    program = compiled(world, MANY_THREADS, "-pthread")
    run = same(world, [program], NATIVE)
    if run.code == 2:
        pytest.skip("this machine gives a process fewer threads")
    assert run.out == "2000\n" and len(run.allowed("fs.open", str(world.work))) >= 2000, run.explain()


MANY_DESCRIPTORS = """
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>
int main(void) {
    struct rlimit most = {10000, 10000};
    if (setrlimit(RLIMIT_NOFILE, &most)) return 2;
    int fd, last = 0, n = 0;
    while ((fd = open("file", O_CREAT | O_RDWR, 0644)) >= 0) last = fd, n++;
    printf("%d %d %d\\n", n, last, errno == EMFILE);
    close(5000); printf("%d\\n", open("file", O_RDONLY));
    close_range(3, ~0U, 0); printf("%d\\n", open("file", O_RDONLY));
    return 0;
}
"""


def test_ten_thousand_descriptors(world: World) -> None:
    run = same(world, [compiled(world, MANY_DESCRIPTORS)], NATIVE)
    if run.code == 2:
        pytest.skip("this machine gives a process fewer descriptors")
    assert run.out == "9997 9999 1\n5000\n3\n", run.explain()


def test_multiprocessing(world: World) -> None:
    script = """
import multiprocessing as mp, multiprocessing.shared_memory as shm, os
def square(n): return n * n
def child(queue, name): queue.put((name, os.getppid() > 0))
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = mp.get_context(method)
        with context.Pool(3) as pool: print(method, pool.map(square, range(20)))
        queue = context.Queue(); process = context.Process(target=child, args=(queue, method)); process.start()
        print(queue.get(), process.join(), process.exitcode)
        sleeper = context.Process(target=__import__("time").sleep, args=(60,)); sleeper.start(); sleeper.terminate(); sleeper.join(); print(sleeper.exitcode)
    memory = shm.SharedMemory(create=True, size=100); memory.buf[0] = 7
    again = shm.SharedMemory(memory.name); print(again.buf[0]); again.close(); memory.close(); memory.unlink()
    with mp.Manager() as manager: shared = manager.dict(); shared["a"] = 1; print(dict(shared))
"""
    same(
        world,
        [world.python, "script.py"],
        PYTHON.replace("[fs]", '[fs]\nread = ["./work"]'),
        {"script.py": script},
    )


def test_asyncio_subprocesses(world: World) -> None:
    script = """
import asyncio, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
async def main():
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    print(await process.communicate(b"through cat"), process.returncode)
    many = [await asyncio.create_subprocess_shell(f"echo {n}; exit {n}", stdout=-1) for n in range(10)]
    print([((await one.communicate())[0], one.returncode) for one in many])
    sleeper = await asyncio.create_subprocess_exec("sleep", "60"); sleeper.send_signal(signal.SIGINT); print(await sleeper.wait())
    server = await asyncio.start_server(lambda r, w: (w.write(b"hello"), w.close()), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()); print(await reader.read()); server.close()
asyncio.run(main())
"""
    policy = (
        PYTHON.replace("[fs]", '[fs]\nread = ["./work"]')
        + """
[process]
exec = ["cat", "sleep", "/bin/sh"]
[net]
listen = ["127.0.0.1:0"]
connect = ["127.0.0.1:1024-65535"]
"""
    )
    same(world, [world.python, "script.py"], policy, {"script.py": script})


def test_sqlite_in_python(world: World) -> None:
    script = """
import sqlite3, threading
def work(n):
    db = sqlite3.connect("work.db", timeout=30)
    for i in range(20):
        with db: db.execute("INSERT INTO t VALUES (?)", (n * 100 + i,))
    db.close()
db = sqlite3.connect("work.db"); print(db.execute("PRAGMA journal_mode = WAL").fetchone()); db.execute("CREATE TABLE t (n INTEGER)")
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for one in threads: one.start()
for one in threads: one.join()
print(db.execute("SELECT count(*), sum(n) FROM t").fetchone())
copy = sqlite3.connect("copy.db"); db.backup(copy); print(copy.execute("SELECT count(*) FROM t").fetchone()); copy.close(); db.close()
"""
    same(
        world,
        [world.python, "script.py"],
        PYTHON.replace("[fs]", '[fs]\nread = ["./work"]'),
        {"script.py": script},
        leave_out=lambda name: name.endswith(".db"),  # the order of rows is the threads'
    )


def wheel(path: Path) -> None:
    info = "small-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("small/__init__.py", "def main():\n    print('from a wheel')\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/entry_points.txt", "[console_scripts]\nsmall = small:main\n")
        file.writestr(f"{info}/RECORD", "")


def test_pip_installs_a_wheel(world: World) -> None:
    if importlib.util.find_spec("pip") is None or world.prefix != Path(sys.prefix):
        pytest.skip("the interpreter that this user may read has no pip")
    wheel(world.base / "small-1.0-py3-none-any.whl")
    script = f"""
{world.python} -m venv --without-pip env
{world.python} -m pip --python env/bin/python install -q --no-index --no-compile --no-cache-dir {world.base}/small-1.0-py3-none-any.whl
env/bin/small; env/bin/python -c 'import small, sys; print(small.__file__, sys.prefix)'
"""
    policy = (
        PYTHON.replace("[fs]", f'[fs]\nread = ["./small-1.0-py3-none-any.whl", "/etc/pip.conf"]')
        + """
[process]
exec = ["/bin/sh", "./work/env/bin/*"]
"""
    )
    same(
        world,
        shell(script),
        policy,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        # What it tells an index about this machine, and whether there is IPv6.
        refused=["lsb_release", "uname", '"path": "/etc"', '"addr": "::1"'],
    )


def test_pytest_with_plugins(world: World) -> None:
    if importlib.util.find_spec("xdist") is None or world.prefix != Path(sys.prefix):
        pytest.skip("the interpreter that this user may read has no pytest with plugins")
    tests = """
import subprocess, pytest
from hypothesis import given, settings, strategies
@pytest.mark.parametrize("n", range(12))
def test_files(tmp_path, n): (tmp_path / "x").write_text(str(n)); assert (tmp_path / "x").read_text() == str(n)
@settings(derandomize=True, database=None)
@given(strategies.integers())
def test_law(n): assert n + 0 == n
def test_shell(capfd): assert subprocess.run(["/bin/sh", "-c", "exit 3"]).returncode == 3
def test_fails(): assert 1 == 2
def test_output(monkeypatch, capsys): monkeypatch.setenv("X", "1"); print("x"); assert capsys.readouterr().out == "x\\n"
"""
    policy = (
        PYTHON.replace("[fs]", '[fs]\nread = ["./work"]') + '[process]\nexec = ["/bin/sh", "sed", "sort"]\n'
    )
    script = f"""{world.python} -m pytest -q -n 2 --no-header --basetemp=temp -p no:cacheprovider test_it.py > out || echo "failed with $?"
sed -n 's/ in [0-9.]*s.*//; /passed/p; /^FAILED/p' out; rm -rf temp out
"""
    run = same(
        world,
        shell(script),
        policy.replace('"sed"', '"sed", "rm"'),
        {"test_it.py": tests},
        leave_out=lambda name: name.startswith((".hypothesis", "temp")),
        refused=["uname"],
    )
    assert "1 failed, 15 passed" in run.out, run.explain()


BUSY = """
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static char image[1 << 22];
int main(int argc, char **argv) {
    if (argc > 1) return 0;
    int from = open("/proc/self/exe", O_RDONLY), length = read(from, image, sizeof image), busy = 0, lingers = 0;
    mkfifo("fifo", 0600);
    for (int n = 0; n < 300; n++) {
        int fd = open("copy", O_CREAT | O_TRUNC | O_WRONLY, 0755);
        write(fd, image, length);
        close(fd);
        int child = fork(), status;
        if (!child) { execl("./copy", "copy", "x", NULL); _exit(errno); }
        waitpid(child, &status, 0);
        busy += WEXITSTATUS(status) == ETXTBSY;
        unlink("copy");
        int reader = open("fifo", O_RDONLY | O_NONBLOCK);
        close(open("fifo", O_WRONLY));
        char end;
        lingers += read(reader, &end, 1) != 0;
        close(reader);
    }
    printf("%d busy, %d linger\\n", busy, lingers);
    return 0;
}
"""


def test_what_was_written_can_be_run_at_once(world: World) -> None:
    """No descriptor of a writer lingers in the supervisor: it would keep a program from being run, and a pipe open."""
    program = compiled(world, BUSY)
    same(world, [program], NATIVE + '[process]\nexec = ["./work/copy"]\n')

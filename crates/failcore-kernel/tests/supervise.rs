//! Programs under supervision behave as they do without it, but for what the policy refuses; as root and as an
//! ordinary user.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "supervised/world.rs"]
mod world;

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use failcore_model::Event;
use rustix::process::{Pid, Signal, kill_process};
use world::{Ran, User, World, users};

#[test]
fn what_is_granted_works_and_what_is_denied_fails_as_programs_expect() {
    for user in users() {
        let world = World::new(*user);
        let ran = world.shell("cat ok/a; cat ok/secret; cat out/f; cat ok/nothing; exit 7");
        assert_eq!(ran.code(), 7, "{user:?}: {}", ran.stderr());
        assert_eq!(ran.stdout(), "public\n");
        assert_eq!(ran.stderr().matches("Permission denied").count(), 2, "{}", ran.stderr());
        assert_eq!(ran.stderr().matches("No such file").count(), 1, "{}", ran.stderr());
        let secret = world.path("ok/secret");
        assert_eq!(ran.count(&format!("fs.open {} deny", secret.display())), 1);
        assert_eq!(ran.count("process.exec /usr/bin/cat"), 4);
    }
}

#[test]
fn created_files_get_the_mode_and_owner_they_would_get() {
    for user in users() {
        let world = World::new(*user);
        let ran = world.shell("umask 027; echo x > w/f; mkdir w/d; umask 0; echo x > w/g; echo done");
        assert_eq!(ran.stdout(), "done\n", "{}", ran.stderr());
        use std::os::unix::fs::MetadataExt;
        let found = |name: &str| std::fs::metadata(world.path(name)).unwrap();
        assert_eq!(found("w/f").mode() & 0o777, 0o640);
        assert_eq!(found("w/d").mode() & 0o777, 0o750);
        assert_eq!(found("w/g").mode() & 0o777, 0o666);
        if *user == User::Ordinary {
            assert_eq!(found("w/f").uid(), 65534);
        }
    }
}

#[test]
fn the_end_of_the_program_passes_through() {
    let world = World::new(User::Own);
    assert_eq!(world.run(&["/bin/true"]).code(), 0);
    assert_eq!(world.shell("exit 42").code(), 42);
    assert_eq!(world.shell("kill -TERM $$").code(), 128 + 15);
    let refused = world.run(&["/usr/bin/id"]);
    assert_eq!(refused.code(), 126);
    assert!(refused.stderr().contains("process.exec /usr/bin/id refused"), "{}", refused.stderr());
    assert!(world.run(&["no-such-program"]).stderr().contains("no program on the search path"));
}

#[test]
fn the_program_inherits_no_descriptor_but_the_standard_ones() {
    for user in users() {
        let mut world = World::new(*user);
        let program = world.compile(
            "descriptors",
            r#"#include <stdio.h>
            #include <fcntl.h>
            int main() { int n = 0; for (int fd = 0; fd < 4096; fd++) if (fcntl(fd, F_GETFD) != -1) n++; printf("%d\n", n); }"#,
        );
        assert_eq!(world.run(&[program]).stdout(), "3\n");
    }
}

#[test]
fn the_emulated_open_keeps_the_flags_and_limits_of_the_real_one() {
    let mut world = World::new(User::Own);
    let program = world.compile(
        "flags",
        r#"#include <stdio.h>
        #include <fcntl.h>
        #include <errno.h>
        #include <string.h>
        #include <unistd.h>
        #include <sys/resource.h>
        #include <sys/stat.h>
        int main() {
            int fd = open("ok/a", O_RDONLY | O_CLOEXEC); printf("%d ", fcntl(fd, F_GETFD));
            fd = open("ok/a", O_RDONLY); printf("%d ", fcntl(fd, F_GETFD));
            fd = open("w/x", O_CREAT | O_WRONLY | O_APPEND, 0600); printf("%d ", !!(fcntl(fd, F_GETFL) & O_APPEND));
            fd = open("w/x", O_CREAT | O_EXCL | O_WRONLY, 0600); printf("%d ", errno == EEXIST && fd == -1);
            fd = open("w/x/y", O_RDONLY); printf("%d ", errno == ENOTDIR && fd == -1);
            fd = open("w", O_WRONLY); printf("%d ", errno == EISDIR && fd == -1);
            symlink("x", "w/l"); fd = open("w/l", O_RDONLY | O_NOFOLLOW); printf("%d ", errno == ELOOP && fd == -1);
            symlink("new", "w/dangling"); fd = open("w/dangling", O_CREAT | O_WRONLY, 0600); printf("%d ", fd >= 0 && !access("w/new", F_OK));
            fd = open("w/dangling2", O_CREAT | O_DIRECTORY, 0600); printf("%d ", fd == -1);
            fd = open("w", O_TMPFILE | O_RDWR, 0600); printf("%d ", fd >= 0 && write(fd, "t", 1) == 1);
            char self[64]; sprintf(self, "/proc/self/fd/%d", fd);
            printf("%d ", linkat(AT_FDCWD, self, AT_FDCWD, "w/linked", AT_SYMLINK_FOLLOW) == 0);
            int dir = open("ok", O_RDONLY | O_DIRECTORY); fd = openat(dir, "a", O_RDONLY); printf("%d ", fd >= 0);
            fd = openat(dir, "../ok/secret", O_RDONLY); printf("%d ", fd == -1 && errno == EACCES);
            fd = openat(99, "a", O_RDONLY); printf("%d ", fd == -1 && errno == EBADF);
            fd = open((char *)1, O_RDONLY); printf("%d ", fd == -1 && errno == EFAULT);
            fd = open("", O_RDONLY); printf("%d ", fd == -1 && errno == ENOENT);
            fd = open("w/\xff\xfe", O_CREAT | O_WRONLY, 0600); printf("%d ", fd >= 0);
            struct rlimit few = {32, 32}; setrlimit(RLIMIT_NOFILE, &few);
            int n = 0; while (open("ok/a", O_RDONLY) >= 0) n++;
            printf("%d %d\n", errno == EMFILE, n < 32);
        }"#,
    );
    let ran = world.run(&[program]);
    assert_eq!(ran.stdout().trim(), "1 0 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "{}", ran.stderr());
}

#[test]
fn proc_self_is_the_program_not_the_supervisor() {
    for user in users() {
        let world = World::new(*user);
        // With one child alone: dash has a handler for its children's ends that does not restart calls, so that the end of one
        // can keep it from forking another (docs/kernel.md).
        let ran = world.shell("read pid rest < /proc/self/stat; [ $pid = $$ ] && echo same; read n < /proc/self/comm; echo $n; cat /dev/stdin <<.\nin\n.");
        // A pipe has no path; it is spoken of by the link, which this policy grants with /proc/self.
        assert_eq!(ran.stdout(), "same\nsh\nin\n", "{}", ran.stderr());
        let ran = world
            .shell("cat /proc/self/fd/0 < ok/a; cat /proc/self/fd/9 9< ok/secret; cat /proc/self/cwd/ok/a");
        assert_eq!(ran.stdout(), "public\npublic\n", "{}", ran.stderr());
    }
}

#[test]
fn a_fifo_stalls_nobody_else_and_a_signal_interrupts_it() {
    let mut world = World::new(User::Own);
    let program = world.compile(
        "fifo",
        r#"#include <pthread.h>
        #include <stdio.h>
        #include <fcntl.h>
        #include <unistd.h>
        #include <signal.h>
        #include <errno.h>
        #include <sys/stat.h>
        void *block(void *at) { open(at, O_RDONLY); return 0; }
        void nothing(int n) {}
        int main() {
            char names[40][32]; pthread_t t;
            for (int i = 0; i < 40; i++) { sprintf(names[i], "w/fifo%d", i); mkfifo(names[i], 0600); pthread_create(&t, 0, block, names[i]); }
            usleep(100000);
            int ok = 0; for (int i = 0; i < 100; i++) { int fd = open("ok/a", O_RDONLY); if (fd >= 0) { ok++; close(fd); } }
            printf("%d ", ok);
            int w = open("w/fifo7", O_WRONLY); printf("%d ", w >= 0);
            struct sigaction a = {.sa_handler = nothing}; sigaction(SIGALRM, &a, 0); mkfifo("w/last", 0600); alarm(1);
            int fd = open("w/last", O_RDONLY); printf("%d\n", fd == -1 && errno == EINTR);
            fflush(stdout); _exit(0);
        }"#,
    );
    let started = Instant::now();
    let ran = world.run(&[program]);
    assert_eq!(ran.stdout(), "100 1 1\n", "{}", ran.stderr());
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn what_takes_long_stalls_nobody_else() {
    for (user, processors) in users().iter().flat_map(|user| [(*user, "0"), (*user, "0-1023")]) {
        let mut world = World::new(user);
        let dir = world.path("w").display().to_string();
        let sockets = format!("\"unix:{dir}/full\", \"unix:{dir}/free\", \"unix:{dir}/queue\"");
        world.more = format!("[net]\nconnect = [{sockets}]\nlisten = [{sockets}]");
        let program = world.compile(
            "long",
            r#"#include <pthread.h>
            #include <stdio.h>
            #include <string.h>
            #include <fcntl.h>
            #include <errno.h>
            #include <unistd.h>
            #include <sys/socket.h>
            #include <sys/stat.h>
            #include <sys/un.h>
            enum { EACH = 8, PIECES = 256, PIECE = 1 << 16 };
            static struct sockaddr_un at(const char *name) { struct sockaddr_un a = {AF_UNIX}; strcpy(a.sun_path, name); return a; }
            static int bound(const char *name, int kind) { struct sockaddr_un a = at(name); int s = socket(AF_UNIX, kind, 0); if (bind(s, (void *)&a, sizeof a)) perror(name); return s; }
            static char piece[PIECE]; static int pairs[EACH][2], full, queue, free_, others_done; static volatile long begun, returned, right;
            // A copy of 16 MiB, with a descriptor in it.
            static void *copy(void *n) {
                char control[CMSG_SPACE(4)] = {0}; struct cmsghdr *h = (void *)control; *h = (struct cmsghdr){CMSG_LEN(4), SOL_SOCKET, SCM_RIGHTS}; *(int *)CMSG_DATA(h) = 1;
                struct iovec v[PIECES]; for (int i = 0; i < PIECES; i++) v[i] = (struct iovec){piece, PIECE};
                struct msghdr m = {0, 0, v, PIECES, control, sizeof control};
                long sent = sendmsg(pairs[(long)n][0], &m, 0); __sync_fetch_and_add(&returned, 1); if (sent == (long)PIECES * PIECE) __sync_fetch_and_add(&right, 1); shutdown(pairs[(long)n][0], SHUT_WR); return 0; }
            static void *drain(void *n) { static char there[EACH][PIECE]; long got, sum = 0; while ((got = read(pairs[(long)n][1], there[(long)n], PIECE)) > 0) {
                    if (!sum) __sync_fetch_and_add(&begun, 1);
                    // The second half of it is not taken before the others are done.
                    if ((sum += got) > (long)PIECES * PIECE / 2) while (!others_done) usleep(1000); } return 0; }
            static void *datagram(void *n) { struct sockaddr_un a = at("w/full"); int s = socket(AF_UNIX, SOCK_DGRAM, 0); __sync_fetch_and_add(&begun, 1); long sent = sendto(s, piece, 1000, 0, (void *)&a, sizeof a); __sync_fetch_and_add(&returned, 1); if (sent == 1000) __sync_fetch_and_add(&right, 1); return 0; }
            static void *join(void *n) { struct sockaddr_un a = at("w/queue"); int s = socket(AF_UNIX, SOCK_STREAM, 0); __sync_fetch_and_add(&begun, 1); long done = connect(s, (void *)&a, sizeof a); __sync_fetch_and_add(&returned, 1); if (!done) __sync_fetch_and_add(&right, 1); return 0; }
            static void *fifo(void *n) { char name[32]; sprintf(name, "w/fifo%ld", (long)n); mkfifo(name, 0600); __sync_fetch_and_add(&begun, 1); int fd = open(name, O_RDONLY); __sync_fetch_and_add(&returned, 1); if (fd >= 0) __sync_fetch_and_add(&right, 1); return 0; }
            int main() {
                full = bound("w/full", SOCK_DGRAM); free_ = bound("w/free", SOCK_STREAM); queue = bound("w/queue", SOCK_STREAM); listen(free_, 1); listen(queue, 0);
                struct sockaddr_un a = at("w/full"), f = at("w/free"), q = at("w/queue"); int s = socket(AF_UNIX, SOCK_DGRAM, 0), filled = 0, waiting = 0;
                while (sendto(s, "x", 1, MSG_DONTWAIT, (void *)&a, sizeof a) == 1) filled++;
                for (;; waiting++) { int c = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0); if (connect(c, (void *)&q, sizeof q)) break; }
                pthread_t t[EACH * 5]; int threads = 0; void *(*ways[])(void *) = {copy, drain, datagram, join, fifo};
                for (long n = 0; n < EACH; n++) { socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[n]); for (int way = 0; way < 5; way++) pthread_create(&t[threads++], 0, ways[way], (void *)n); }
                while (begun < EACH * 4) usleep(1000);
                int ok = 0;
                for (int i = 0; i < 200; i++) {
                    int fd = open("ok/a", O_RDONLY); ok += fd >= 0; close(fd);
                    int c = socket(AF_UNIX, SOCK_STREAM, 0); ok += !connect(c, (void *)&f, sizeof f); close(c); close(accept(free_, 0, 0));
                    fd = open("w/made", O_CREAT | O_WRONLY, 0600); ok += fd >= 0; close(fd); ok += !rename("w/made", "w/moved"); }
                long under_way = EACH * 4 - returned; others_done = 1;
                for (int i = 0; i < filled + EACH; i++) { char b[1024]; recv(full, b, sizeof b, 0); } for (int i = 0; i < waiting + EACH; i++) close(accept(queue, 0, 0));
                for (int i = 0; i < EACH; i++) { char name[32]; sprintf(name, "w/fifo%d", i); close(open(name, O_WRONLY)); }
                for (int i = 0; i < threads; i++) pthread_join(t[i], 0);
                printf("%d others while %ld went on, of which %ld came to their end\n", ok, under_way, right);
            }"#,
        );
        let command = world.command(&[program]);
        // On one processor as well as on all; where a call that takes long stops everything, the time ends it.
        let mut bounded = std::process::Command::new("timeout");
        bounded
            .args(["--signal=KILL", "100", "taskset", "--cpu-list", processors])
            .arg(command.get_program());
        bounded.args(command.get_args()).current_dir(world.path("")).env_clear().env("PATH", "/usr/bin:/bin");
        let output = bounded.output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "800 others while 32 went on, of which 32 came to their end\n",
            "{user:?} on {processors}: {} {:?}",
            String::from_utf8_lossy(&output.stderr),
            output.status
        );
        // And each of those was in hand by then.
        let ran = Ran { output, records: world.records() };
        let decisions = ran.decisions();
        let last = decisions.iter().rposition(|one| one.starts_with("fs.rename")).unwrap();
        let (before, after) = decisions.split_at(last);
        let fifos = before.iter().filter(|one| one.starts_with("fs.open") && one.contains("w/fifo")).count();
        let later = after.iter().filter(|one| one.contains("w/queue") || one.contains("w/full")).count();
        assert_eq!((fifos, later), (8, 0), "{user:?} on {processors}");
    }
}

#[test]
fn scripts_start_with_the_arguments_they_were_granted() {
    // The kernel puts the interpreters and their arguments before them, and the script's path in place of its name.
    for (outer, inner) in [("", ""), (" -e", ""), ("\t-e ", " -u \t"), ("  ", "   -eu")] {
        let mut world = World::new(User::Own);
        let path = |name: &str| world.path(&format!("bin/{name}")).display().to_string();
        std::fs::write(path("inner"), format!("#! /bin/sh{inner}\nfor last; do :; done; echo $last\n"))
            .unwrap();
        std::fs::write(path("outer"), format!("#!{}{outer}\n", path("inner"))).unwrap();
        let asked = path("outer");
        world.exec.push(format!("{asked} 'one two' good"));
        let ran = world.run(&["/bin/sh", "-c", &format!("{asked} 'one two' good; echo end")]);
        assert_eq!(ran.stdout(), "good\nend\n", "{outer:?} {inner:?}: {}", ran.stderr());
        let notices: Vec<_> =
            ran.records.iter().filter(|record| matches!(record.event, Event::Notice { .. })).collect();
        assert!(notices.is_empty(), "{outer:?} {inner:?}: {notices:#?}");
    }
}

#[test]
fn threads_and_forks_are_each_answered() {
    let mut world = World::new(User::Own);
    let program = world.compile(
        "many",
        r#"#include <pthread.h>
        #include <stdio.h>
        #include <fcntl.h>
        #include <unistd.h>
        #include <sys/wait.h>
        void *opens(void *n) { long ok = 0; for (int i = 0; i < 50; i++) { int fd = open("ok/a", O_RDONLY); if (fd >= 0) { ok++; close(fd); } } return (void *)ok; }
        int main() {
            pthread_t t[200]; long sum = 0; void *one;
            for (int i = 0; i < 200; i++) pthread_create(&t[i], 0, opens, 0);
            for (int i = 0; i < 200; i++) { pthread_join(t[i], &one); sum += (long)one; }
            int children = 0;
            for (int i = 0; i < 50; i++) if (!fork()) { int fd = open("ok/a", O_RDONLY); _exit(fd < 0); }
            int status; while (wait(&status) > 0) if (status == 0) children++;
            printf("%ld %d\n", sum, children);
        }"#,
    );
    let ran = world.run(&[program]);
    assert_eq!(ran.stdout(), "10000 50\n", "{}", ran.stderr());
    let opened = ran.count(&format!("fs.open {} allow", world.path("ok/a").display()));
    assert_eq!(opened, 10_050, "one record for each");
}

#[test]
fn nothing_outlives_the_supervisor() {
    for user in users() {
        let world = World::new(*user);
        let mut child = world
            .command(&[
                "/bin/sh",
                "-c",
                "(sleep 777 &) ; sleep 778 & (sh -c 'sleep 779 & sleep 780') & echo started; cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 8];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        // setpriv becomes the supervisor, so that it is our own child either way.
        let supervisor = child.id();
        let run = descendants(supervisor);
        assert!(run.len() >= 5, "{run:?}");
        kill_process(Pid::from_raw(supervisor.cast_signed()).unwrap(), Signal::KILL).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        let started = Instant::now();
        while run.iter().any(|pid| is_alive(*pid)) {
            assert!(started.elapsed() < Duration::from_secs(5), "{:?} still run", run);
            std::thread::yield_now();
        }
    }
}

fn descendants(of: u32) -> Vec<u32> {
    let (mut found, mut parents) = (Vec::new(), vec![of]);
    while let Some(parent) = parents.pop() {
        for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                found.push(child);
                parents.push(child);
            }
        }
    }
    found
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

#[test]
fn sockets_reach_whom_the_policy_names_and_nobody_else() {
    for user in users() {
        let mut world = World::new(*user);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        world.more = format!("[net]\nconnect = [\"127.0.0.1:{port}\"]");
        let program = world.compile(
            "connect",
            r#"#include <stdio.h>
            #include <stdlib.h>
            #include <errno.h>
            #include <string.h>
            #include <unistd.h>
            #include <arpa/inet.h>
            #include <sys/socket.h>
            static int try(const char *at, int port, int how) {
                struct sockaddr_in a = {AF_INET, htons(port)}; inet_pton(AF_INET, at, &a.sin_addr);
                int s = socket(AF_INET, how == 2 ? SOCK_DGRAM : SOCK_STREAM, 0), r;
                if (how == 0) r = connect(s, (void *)&a, sizeof a);
                else if (how == 1) r = sendto(s, "x", 1, MSG_FASTOPEN, (void *)&a, sizeof a);
                else { struct iovec v = {"x", 1}; struct msghdr m = {&a, sizeof a, &v, 1}; r = sendmsg(s, &m, 0); }
                int e = errno; close(s); return r < 0 ? e : 0;
            }
            int main(int c, char **v) {
                int port = atoi(v[1]);
                printf("%d ", try("127.0.0.1", port, 0)); printf("%d ", try("127.0.0.1", port, 1));
                printf("%d ", try("127.0.0.1", port + 1, 0)); printf("%d ", try("0.0.0.0", port, 0));
                printf("%d ", try("169.254.169.254", 80, 0)); printf("%d ", try("10.0.0.1", port, 1));
                printf("%d ", try("127.0.0.1", port, 2)); printf("%d\n", try("8.8.8.8", 54, 2));
            }"#,
        );
        let ran = world.run(&[program.to_str().unwrap(), &port.to_string()]);
        assert_eq!(ran.stdout(), "0 0 13 13 13 13 13 13\n", "{}", ran.stderr());
    }
}

#[test]
fn an_unwritable_trace_refuses_everything() {
    let mut world = World::new(User::Own);
    // A file may grow no further than this; what comes after cannot be recorded, hence is not allowed.
    let program = world.compile(
        "until",
        r#"#include <stdio.h>
        #include <fcntl.h>
        #include <errno.h>
        #include <unistd.h>
        int main() { for (int i = 0; i < 100000; i++) { int fd = open("ok/a", O_RDONLY); if (fd < 0) { printf("%d\n", errno); return 0; } close(fd); } puts("never"); }"#,
    );
    let command = world.command(&[program]);
    let mut limited = std::process::Command::new("prlimit");
    limited.args(["--fsize=12000000", "--"]).arg(command.get_program()).args(command.get_args());
    limited.current_dir(world.path(""));
    let output = limited.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "5\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_open_of_a_program_has_one_record() {
    let world = World::new(User::Own);
    let log = world.path("strace");
    let traced = std::process::Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=open,openat,openat2,creat", "-o"])
        .arg(&log)
        .args(["/bin/sh", "-c", "cat ok/a; ls ok > w/list; mv w/list w/l2; cat w/l2"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir(world.path(""))
        .output();
    let Ok(traced) = traced else { panic!("strace is needed: apt-get install strace") };
    assert!(traced.status.success());
    let opens = std::fs::read_to_string(log).unwrap().lines().filter(|line| line.contains("open")).count();
    drop(std::fs::remove_file(world.path("w/l2")));
    let ran = world.shell("cat ok/a; ls ok > w/list; mv w/list w/l2; cat w/l2");
    assert_eq!(ran.count("fs.open"), opens, "{:#?}", ran.decisions());
    let joined =
        ran.records.iter().filter(|record| matches!(record.event, Event::ProcessJoined { .. })).count();
    let left = ran.records.iter().filter(|record| matches!(record.event, Event::ProcessLeft { .. })).count();
    assert_eq!((joined, left), (5, 5));
}

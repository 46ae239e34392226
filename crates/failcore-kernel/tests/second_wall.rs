//! Landlock underneath holds by itself: what a supervisor lets through by mistake does not get through.
//!
//! The mistake is played by two policies: the supervisor decides by one that grants more than the other, of which the
//! domains are made.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "supervised/world.rs"]
mod world;

use std::net::TcpListener;

use failcore_kernel::Features;
use world::{World, users};

/// Tries everything, and prints each errno.
const PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static void said(const char *what, long result) { printf("%s=%d\n", what, result < 0 ? errno : 0); fflush(stdout); }
static struct sockaddr_in at(int port) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return to;
}
int main(int argc, char **argv) {
    struct sockaddr_in connects = at(atoi(argv[1])), binds = at(atoi(argv[2]));
    said("read", open("out/f", O_RDONLY));
    said("list", open("out", O_RDONLY | O_DIRECTORY));
    said("write", open("out/f", O_WRONLY));
    said("truncate", truncate("out/f", 3));
    said("create", open("out/new", O_WRONLY | O_CREAT, 0600));
    said("mkdir", mkdir("out/dir", 0700));
    said("symlink", symlink("x", "out/soft"));
    said("unlink", unlink("out/f"));
    said("rename", rename("w/mine", "out/mine"));
    said("link", link("w/mine", "out/mine"));
    said("connect", connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&connects, sizeof connects));
    said("bind", bind(socket(AF_INET, SOCK_STREAM, 0), (void *)&binds, sizeof binds));
    int status = 0;
    if (!fork()) { execl("/usr/bin/test", "test", "x", (char *)0); _exit(errno); }
    wait(&status);
    printf("exec=%d\n", WEXITSTATUS(status));
    return 0;
}
"#;

#[test]
fn what_the_supervisor_lets_through_by_mistake_does_not_get_through() {
    let landlock = Features::probe().landlock;
    if landlock == 0 {
        return;
    }
    for user in users() {
        let mut world = World::new(*user);
        let program = world.compile("tries", PROGRAM).display().to_string();
        std::fs::write(world.path("w/mine"), "mine").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        world.more = "[net]\nconnect = [\"127.0.0.1:1\"]\nlisten = [\"127.0.0.1:1\"]\n".into();
        world.beyond = vec![
            ("\nread = [", format!("{:?}", world.path("out"))),
            ("\nwrite = [", format!("{:?}", world.path("out"))),
            ("\nexec = [", "\"/usr/bin/test\"".to_owned()),
            ("\nconnect = [", format!("\"127.0.0.1:{port}\"")),
            ("\nlisten = [", format!("\"127.0.0.1:{free}\"")),
        ];
        let command = [program, port.to_string(), free.to_string()];
        world.mistaken = true;
        let ran = world.run(&command);
        let of = |name: &str| -> i32 {
            let said = ran.stdout();
            let mut lines = said.lines();
            let line = lines.find_map(|line| line.strip_prefix(&format!("{name}="))?.parse().ok());
            line.unwrap_or_else(|| panic!("{name}: {}{}", ran.stdout(), ran.stderr()))
        };
        for name in ["read", "list", "write", "create", "mkdir", "symlink", "unlink", "exec"] {
            assert_eq!(of(name), libc::EACCES, "{user:?}: {name}");
        }
        for name in ["rename", "link"] {
            assert!([libc::EACCES, libc::EXDEV].contains(&of(name)), "{user:?}: {name}: {}", of(name));
        }
        if landlock >= 3 {
            assert_eq!(of("truncate"), libc::EACCES, "{user:?}");
        }
        if landlock >= 4 {
            assert_eq!((of("connect"), of("bind")), (libc::EACCES, libc::EACCES), "{user:?}");
        }
        // It was the kernel: the supervisor had granted each of them.
        assert_eq!(ran.count("deny"), 0, "{:?}", ran.decisions());
        assert_eq!(std::fs::read(world.path("out/f")).unwrap(), b"outside\n");
        assert!(!world.path("out/new").exists() && world.path("w/mine").exists());

        // Where the domains are made of the same policy, all of it works.
        world.mistaken = false;
        let ran = world.run(&command);
        let failed: Vec<String> =
            ran.stdout().lines().filter(|line| !line.ends_with("=0")).map(str::to_owned).collect();
        // The name that was renamed is not there to be linked.
        assert_eq!(failed, [format!("link={}", libc::ENOENT)], "{user:?}: {}{}", ran.stdout(), ran.stderr());
    }
}

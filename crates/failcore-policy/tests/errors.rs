//! What people read when a policy does not load.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use failcore_model::AbsPath;
use failcore_policy::{Environment, PolicySet};
use miette::{GraphicalReportHandler, GraphicalTheme};

fn environment() -> Environment {
    let dir = |path: &str| AbsPath::new(path.as_bytes()).unwrap();
    Environment {
        home: Some(dir("/home/agent")),
        vars: BTreeMap::from([("DATA".into(), "/srv/data".into())]),
        path: vec![dir("/usr/bin"), dir("/bin")],
        ..Environment::default()
    }
}

fn errors(text: &str) -> String {
    let error = PolicySet::parse("demo.toml", text, &AbsPath::new(b"/srv/agent").unwrap(), &environment())
        .expect_err("this policy should not load");
    let mut out = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(110)
        .with_links(false)
        .render_report(&mut out, &error)
        .unwrap();
    out.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn an_unknown_key_has_a_suggestion() {
    insta::assert_snapshot!(errors("version = 1\n[fs]\nraed = [\"./data\"]\n"));
}

#[test]
fn an_unknown_section_without_a_near_one_lists_what_is_known() {
    insta::assert_snapshot!(errors("[bananas]\nx = 1\n"));
}

#[test]
fn several_problems_at_once() {
    insta::assert_snapshot!(errors(
        r#"
version = 2
mode = "enforced"
[fs]
read = ["./data", 3, { path = "./x", utnil = "2026-01-01T00:00:00Z" }]
wirte = []
[net]
connect = ["api.example.com", "*.com:443", "10.0.0.1/8:80", "127.1:80"]
[limits]
wall_time = "30"
"#
    ));
}

#[test]
fn syntax() {
    insta::assert_snapshot!(errors("[fs]\nread = [\"./data\"\n[net]\nconnect = [\n"));
}

#[test]
fn payloads() {
    insta::assert_snapshot!(errors(
        "[record]\nmax_file = \"64 megs\"\nhash_only = [\"./a\", \"./b**\"]\nkeeps = []\n[[tool]]\nname = \"t\"\nrecord.keep = []\n"
    ));
}

#[test]
fn requests_and_credentials() {
    insta::assert_snapshot!(errors(
        r#"
[net]
connect = [{ host = "10.0.0.1:443", carry = true }, { host = "udp:a.example:443", carry = true }]
http = ["GET https://api.example.com/x", "api.example.com/x", "GET api.example.com", "get api.example.com/"]
[[credential]]
host = "*.example.com"
header = "Authorization"
env = "KEY"
[[credential]]
host = "api.example.com"
header = "Host"
env = "KEY"
[[credential]]
host = "api.example.com"
header = "Authorization"
value = "secret"
[[credential]]
host = "api.example.com"
header = "Authorization"
env = "KEY"
file = "./key"
[[tool]]
name = "t"
net.request_bytes = 5
"#
    ));
}

#[test]
fn a_name_server_is_an_address_and_how_it_is_asked() {
    insta::assert_snapshot!(errors(
        "[dns]\nupstream = [\"9.9.9.9\", \"https://dns.google/dns-query\", \"tls://9.9.9.9#dns.quad9.net\"]\n"
    ));
}

#[test]
fn variables_are_given_once_and_to_the_whole_program() {
    insta::assert_snapshot!(errors(
        r#"
[env]
pass = ["A", { name = "B", approve = true }, { name = "C", audit = true }, { name = "D", until = "2026-01-01T00:00:00Z" }]
[[tool]]
name = "web_*"
env.pass = []
"#
    ));
}

#[test]
fn a_row_that_does_not_hold() {
    insta::assert_snapshot!(errors(
        r#"
[fs]
write = ["./work"]

[[test]]
request = "fs.read ./work/.env"
expect = "deny"

[[test]]
request = "fs.read ./other"
expect = "allow"

[[test]]
request = "fs.raed ./work"
expect = "deny"
"#
    ));
}

#[test]
fn entries_that_say_nothing() {
    insta::assert_snapshot!(errors(
        r#"
[fs]
read = [{ path = "./a", only = ["modify"] }, "~bob/x", "${NOWHERE}/x", ""]
deny = [{ path = "./b", until = "2026-01-01T00:00:00Z" }, "./[a", "./a**"]
caution = ["./c"]
[process]
exec = ["git 'x", ""]
[[tool]]
name = "x"
fs.wriet = []
"#
    ));
}

#[test]
fn ids_name_one_rule() {
    insta::assert_snapshot!(errors(
        "[fs]\nread = [{ path = \"./a\", id = \"a\" }, { path = \"./b\", id = \"a\" }]\n"
    ));
}

#[test]
fn what_is_extended_must_exist() {
    insta::assert_snapshot!(errors("extends = [\"preset:pyhton\", \"./no-such-policy.toml\"]\n"));
}

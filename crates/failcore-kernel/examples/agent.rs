//! A process of a run, for the tests: attaches, records a number of facts, and dies as it is told.
//!
//! Usage: `agent RECORDS kill|exit`, with `FAILCORE_SOCKET` in the environment.

use std::process::ExitCode;

use failcore_kernel::{Attachment, SOCKET_VAR};
use failcore_model::Event;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let records: u32 = args.next().and_then(|n| n.parse().ok()).expect("a number of records");
    let end = args.next().expect("how to end");
    let socket = std::env::var_os(SOCKET_VAR).expect("a socket");
    let before = descriptors();
    let attachment = match Attachment::connect(socket.as_ref()) {
        Ok(attachment) => attachment,
        Err(_) => return ExitCode::from(126),
    };
    let more = descriptors() - before;
    let sink = attachment.sink();
    for n in 0..records {
        let text = format!("{n} with {more} more descriptors under {}", attachment.policy);
        if sink.append(&Event::ScopeLeft { pid: n, tid: n, scope: vec![text.into()] }).is_err() {
            return ExitCode::from(1);
        }
    }
    if end == "kill" {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    ExitCode::SUCCESS
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("own descriptors").count()
}

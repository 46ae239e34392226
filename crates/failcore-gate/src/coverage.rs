//! What the interpreter lane really holds, said once for every face.

use failcore_model::{Coverage, Hold, Lane, Verb, VerbCoverage};

/// The coverage of the interpreter lane: `trace` is binding where a parent started the program and writes it, advisory
/// where a session was opened in the program itself.
pub fn runtime(trace: Hold) -> Coverage {
    let verbs = Verb::ALL.iter().map(|verb| {
        let (hold, by) = match (verb, trace) {
            // The parent gives the program what is granted, and nothing raises an event afterwards.
            (Verb::EnvRead, Hold::Binding) => (Hold::Advisory, "environment chosen when the program starts"),
            _ => held(*verb),
        };
        VerbCoverage { verb: *verb, hold, by: by.into() }
    });
    let more = if trace == Hold::Binding { IN_A_RUN } else { EMBEDDED };
    let notes = NOT_HELD.iter().chain(more).map(|note| (*note).into()).collect();
    Coverage { lane: Lane::Runtime, trace, verbs: verbs.collect(), notes }
}

fn held(verb: Verb) -> (Hold, &'static str) {
    const HOOK: &str = "audit hook";
    const WRAPPER: &str = "audit hook and wrappers";
    match verb {
        Verb::FsOpen
        | Verb::FsRead
        | Verb::FsModify
        | Verb::FsDelete
        | Verb::FsRename
        | Verb::FsLink
        | Verb::FsSymlink
        | Verb::NetBind
        | Verb::NativeLoad
        | Verb::Unmapped
        | Verb::ProcessLimit => (Hold::Advisory, HOOK),
        Verb::FsCreate
        | Verb::FsAttr
        | Verb::NetResolve
        | Verb::NetConnect
        | Verb::NetSend
        | Verb::NetListen
        | Verb::NetSocket
        | Verb::IpcConnect
        | Verb::ProcessExec
        | Verb::ProcessSignal
        | Verb::KernelCall => (Hold::Advisory, WRAPPER),
        Verb::NetHttp | Verb::EnvRead | Verb::ProcessTrace => (Hold::None, "nothing"),
    }
}

/// What the interpreter lane cannot hold, each for a reason that lies in CPython.
const NOT_HELD: &[&str] = &[
    "native code in the process (an extension module, ctypes where granted) can go round every rule",
    "stat, access, readlink and chdir are not mediated: existence and metadata stay visible",
    "a thread that swaps a symbolic link between the decision and CPython's own call is not stopped, except in opens \
     of a `failcore run` to which no link led",
    "os.write, os.ftruncate and os.sendfile on a descriptor that is already open raise no event",
    "a child program that is not CPython runs outside the gate; its start is recorded",
    "bytecode crafted by hand can corrupt memory, and with it the gate",
    "setsockopt, memfd_create, pidfd_open and changes of user are not mediated; what they lead to is",
    "an sqlite database's journals and a semaphore's name in /dev/shm are not judged one by one",
    "a tool scope is what the program says of itself: code that digs can leave it, and then has the session's grants",
    "in a sub-interpreter there are no tool scopes of its own",
    "a denied directory that a program outside the gate moves is known by its new name after a millisecond",
    "an address reached directly may be shared by other hosts than the one that was granted",
    "open descriptors and connections outlive a grant that ends, until the run stops",
    "hard links made before the run to files that only a glob denies are not held",
];

/// The same, where a parent started the program.
const IN_A_RUN: &[&str] = &[
    "a variable that is not passed is not in the program's memory; other processes of the user keep theirs in /proc, \
     which only the rules about files hold",
];

/// The same, where the program opened the session itself.
const EMBEDDED: &[&str] = &[
    "the trace is written by the process it speaks of, which could forge or stop it",
    "environment variables are not held: the program had them all before the session was opened",
    "limits on memory, processes and bytes written are not held: only a parent measures them",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_in_process_lane_never_claims_to_bind() {
        for trace in [Hold::Advisory, Hold::Binding] {
            let coverage = runtime(trace);
            assert_eq!(coverage.verbs.iter().map(|v| v.verb).collect::<Vec<_>>(), Verb::ALL);
            assert!(coverage.verbs.iter().all(|v| v.hold < Hold::Binding));
            assert_eq!(coverage.trace, trace);
        }
        let environment = |trace| {
            let coverage = runtime(trace);
            coverage.verbs.into_iter().find(|v| v.verb == Verb::EnvRead).map(|v| v.hold)
        };
        assert_eq!(environment(Hold::Binding), Some(Hold::Advisory));
        assert_eq!(environment(Hold::Advisory), Some(Hold::None));
    }
}

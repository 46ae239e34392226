//! What the runtime lane holds, as the trace's first record says it.

use failcore_model::{Coverage, Hold, Lane, Verb, VerbCoverage};

/// The runtime lane: everything it holds is advisory, since native code in the same process can go round it.
pub(super) fn runtime() -> Coverage {
    let verbs = Verb::ALL.iter().map(|verb| {
        let (hold, by) = how(*verb);
        VerbCoverage { verb: *verb, hold, by: by.into() }
    });
    Coverage {
        lane: Lane::Runtime,
        trace: Hold::Binding,
        verbs: verbs.collect(),
        notes: NOTES.iter().map(|note| (*note).into()).collect(),
    }
}

fn how(verb: Verb) -> (Hold, &'static str) {
    match verb {
        Verb::NetHttp => (Hold::None, "needs the network broker"),
        Verb::KernelCall => (Hold::None, "needs the kernel lane"),
        Verb::EnvRead => (Hold::Advisory, "the environment is filtered before the program starts"),
        _ => (Hold::Advisory, "audit hook and wrappers in the interpreter"),
    }
}

const NOTES: &[&str] = &[
    "native code in the interpreter's process can go round the gate",
    "a thread that swaps a symbolic link between decision and open can have another file opened",
    "programs that are not Python run outside the gate once their exec is granted",
    "existence and metadata of files stay visible: stat, access, readlink and chdir are not judged",
    "writes to descriptors that are open already are not judged",
    "hard links made before the run to files that only a glob denies are not held",
    "descriptors and connections that are open stay usable after a grant has ended",
];

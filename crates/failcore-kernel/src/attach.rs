//! The agent's side: joining a run that a parent governs.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use failcore_gate::{Approver, Meter, Sink, Uncounted};
use failcore_model::{Answer, Request, Text};

use crate::page::RunPage;
use crate::peer::Peer;
use crate::reception::dial;
use crate::ring::Producer;
use crate::slots::Slots;
use crate::wire::{Admitted, Ask, Verdict, Welcome, WireError, receive, send};

/// How long the parent may take to let a process in.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process of a run got from its parent; nothing in it is a descriptor.
pub struct Attachment {
    /// The session's id.
    pub session: String,
    /// The agent's name.
    pub agent: Option<Text>,
    /// The caller's label of the run.
    pub run: Option<Text>,
    /// The policy, as [`PolicySet::to_json`](failcore_policy::PolicySet::to_json) wrote it.
    pub policy: Vec<u8>,
    /// Under supervision: how this process and the supervisor speak beside its system calls.
    pub supervised: Option<Supervised>,
    /// The process that governs the run: all that descend from it belong to the run, and it does not.
    pub parent: u32,
    sink: Arc<Producer>,
    page: RunPage,
    socket: PathBuf,
}

/// What a process under supervision has beside the rest.
#[derive(Clone)]
pub struct Supervised {
    /// The slots of its threads.
    pub slots: Arc<Slots>,
    /// The tool scope that it was started in. The supervisor judges by it whatever the process claims.
    pub scope: Vec<Text>,
    /// Whether the supervisor wants to know where in the program it is also read and looked (stat(2) and the like).
    pub looks: bool,
}

/// Why a process could not join; it must not run then.
#[derive(Debug, thiserror::Error)]
#[error("cannot attach to the run at `{}`: {why}", socket.display())]
pub struct AttachError {
    socket: PathBuf,
    why: String,
}

impl Attachment {
    /// Joins the run behind `socket` ([`SOCKET_VAR`](crate::SOCKET_VAR)).
    ///
    /// A forked child joins anew: the ring belongs to one process.
    ///
    /// # Errors
    /// [`AttachError`] where the parent is gone, refuses, or what it sends cannot be mapped.
    pub fn connect(socket: &Path) -> Result<Self, AttachError> {
        join(socket).map_err(|error| AttachError { socket: socket.into(), why: error.to_string() })
    }

    /// Where this process's records go.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.sink) as _
    }

    /// The run's shared counters; none under a supervisor, which alone counts and holds limits.
    pub fn meter(&self) -> Arc<dyn Meter> {
        match self.supervised {
            Some(_) => Arc::new(Uncounted),
            None => Arc::new(self.page.clone()),
        }
    }

    /// The person at the parent's terminal.
    pub fn approver(&self) -> Arc<dyn Approver> {
        Arc::new(AtParent { socket: self.socket.clone() })
    }
}

fn join(socket: &Path) -> Result<Attachment, WireError> {
    let connection = dial(socket, Some(PATIENCE))?;
    let parent = Peer::of(&connection)?.pid;
    send(&connection, &Ask::Attach {}, &[])?;
    let (welcome, fds): (Welcome, _) = receive(&connection)?;
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or(WireError::Truncated);
    let (policy, page, ring): (OwnedFd, OwnedFd, OwnedFd) = (next()?, next()?, next()?);
    let supervised = match welcome.supervised {
        Some(Admitted { scope, looks }) => {
            Some(Supervised { slots: Arc::new(Slots::map(next()?)?), scope, looks })
        }
        None => None,
    };
    let mut json = Vec::new();
    File::from(policy).read_to_end(&mut json).map_err(|_| WireError::Truncated)?;
    let page = RunPage::map(page)?;
    let sink = Arc::new(Producer::map(ring, page.clone())?);
    Ok(Attachment {
        session: welcome.session,
        agent: welcome.agent,
        run: welcome.run,
        policy: json,
        supervised,
        parent,
        sink,
        page,
        socket: socket.into(),
    })
}

struct AtParent {
    socket: PathBuf,
}

impl Approver for AtParent {
    fn ask(&self, request: &Request, question: &str) -> (Answer, Text) {
        let ask = || -> Result<Verdict, WireError> {
            let connection = dial(&self.socket, None)?;
            send(
                &connection,
                &Ask::Approve { request: Box::new(request.clone()), question: question.into() },
                &[],
            )?;
            Ok(receive(&connection)?.0)
        };
        ask().map_or((Answer::Denied, Text::default()), |verdict| (verdict.answer, verdict.who))
    }
}

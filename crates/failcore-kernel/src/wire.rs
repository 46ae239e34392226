//! Messages over unix sockets: one JSON text a packet, descriptors beside it. Those between an agent's process and its
//! parent stand here; whoever else speaks this way brings their own.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use failcore_model::{Answer, Request, Text};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The largest message, in bytes; a request with a long argument vector fits.
const MAX_MESSAGE: usize = 1 << 18;
/// The most descriptors with one message.
const MAX_FDS: usize = 4;

/// What an agent's process asks of its parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Let me in: answered by [`Welcome`] with descriptors of policy, page, ring and, under supervision, slots, in that
    /// order.
    Attach {},
    /// Ask a person: answered by [`Verdict`].
    Approve {
        /// The operation.
        request: Box<Request>,
        /// It in words.
        question: String,
    },
}

/// The answer to [`Ask::Attach`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) session: String,
    pub(crate) agent: Option<Text>,
    pub(crate) run: Option<Text>,
    pub(crate) supervised: Option<Admitted>,
}

/// What a process under supervision hears beside the rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Admitted {
    /// The tool scope that it was started in, which it cannot leave.
    pub(crate) scope: Vec<Text>,
    /// As [`Supervised::looks`](crate::Supervised::looks).
    pub(crate) looks: bool,
}

/// The answer to [`Ask::Approve`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) answer: Answer,
    pub(crate) who: Text,
}

/// Why a message did not come through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The kernel's answer; `EAGAIN` where nothing came in time.
    #[error("the connection failed: {0}")]
    Socket(#[from] Errno),
    /// It is none that was expected.
    #[error("the message makes no sense: {0}")]
    Message(#[from] serde_json::Error),
    /// It is longer than a packet holds.
    #[error("the message was cut short")]
    Truncated,
    /// There is nobody any more.
    #[error("the other side hung up")]
    HungUp,
}

/// Sends one message, with `fds` beside it.
///
/// # Errors
/// [`WireError`].
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(WireError::Truncated);
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    if sent == bytes.len() { Ok(()) } else { Err(WireError::Truncated) }
}

/// Waits for a message, and takes the descriptors that came with it.
///
/// # Errors
/// [`WireError`].
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<(T, Vec<OwnedFd>), WireError> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if got.bytes == 0 {
        return Err(WireError::HungUp);
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(WireError::Truncated);
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((serde_json::from_slice(&bytes[..got.bytes])?, fds))
}

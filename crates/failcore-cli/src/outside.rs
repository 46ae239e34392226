//! Somebody outside of the world that a program is run again in: a process of this command, started before the world is
//! entered, which makes the connections that `failcore replay --live` lets happen.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use failcore_gate::Outside;
use failcore_model::HostName;
use failcore_net::getaddrinfo;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::exit::Exit;
use crate::failure::{Failure, Problem};

/// How long a server is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest word that is exchanged: 256 addresses.
const LONGEST: usize = 16 << 10;

/// The way to that process, which ends with this.
#[derive(Debug)]
pub(crate) struct Helper {
    link: Mutex<OwnedFd>,
    process: Child,
}

impl Helper {
    /// Starts it where this process still is.
    pub(crate) fn start() -> Result<Self, Problem> {
        let failed = |source| Problem::System { what: "start a process outside", source };
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|errno| failed(errno.into()))?;
        let own = std::env::current_exe().map_err(failed)?;
        let process = Command::new(own).arg("outside").stdin(Stdio::from(theirs)).spawn().map_err(failed)?;
        Ok(Self { link: Mutex::new(ours), process })
    }

    fn ask(&self, word: &str) -> io::Result<(String, Option<OwnedFd>)> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        say(link.as_fd(), word, None)?;
        hear(link.as_fd())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Nothing of it is left to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Outside for Helper {
    fn connect(&self, to: SocketAddr) -> io::Result<OwnedFd> {
        let (answer, fd) = self.ask(&format!("connect {to}"))?;
        let errno = answer.parse().ok();
        fd.ok_or_else(|| {
            errno.map_or_else(|| io::ErrorKind::ConnectionRefused.into(), io::Error::from_raw_os_error)
        })
    }

    fn addresses(&self, name: &HostName) -> Result<Vec<IpAddr>, (i32, String)> {
        const EAI_AGAIN: i32 = -3;
        let (answer, _) =
            self.ask(&format!("addresses {name}")).map_err(|error| (EAI_AGAIN, error.to_string()))?;
        match answer.split_once(' ') {
            Some(("has", addrs)) => Ok(addrs.split(' ').filter_map(|addr| addr.parse().ok()).collect()),
            Some((code, why)) => Err((code.parse().unwrap_or(EAI_AGAIN), why.to_owned())),
            None => Err((EAI_AGAIN, answer)),
        }
    }
}

/// The life of that process: does what it is asked for on its standard input, until nobody is there to ask.
pub(crate) fn run() -> Result<Exit, Failure> {
    let link = io::stdin();
    while let Ok((asked, _)) = hear(link.as_fd()) {
        let (answer, fd) = match asked.split_once(' ') {
            Some(("connect", to)) => match connect(to) {
                Ok(fd) => ("made".to_owned(), Some(fd)),
                Err(error) => (error.raw_os_error().unwrap_or_default().to_string(), None),
            },
            Some(("addresses", name)) => (addresses(name), None),
            _ => break,
        };
        if say(link.as_fd(), &answer, fd.as_ref().map(AsFd::as_fd)).is_err() {
            break;
        }
    }
    Ok(Exit::Success)
}

fn connect(to: &str) -> io::Result<OwnedFd> {
    let to = to.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nonblocking(true)?;
    Ok(stream.into())
}

fn addresses(name: &str) -> String {
    let found = HostName::parse(name).map_err(|error| (-2, error.to_string()));
    match found.and_then(|name| getaddrinfo(&name).map_err(|error| (error.code, error.to_string()))) {
        Ok(found) => {
            let addrs = found.addrs.iter().take(256).map(IpAddr::to_string);
            format!("has {}", addrs.collect::<Vec<_>>().join(" "))
        }
        Err((code, why)) => format!("{code} {why}"),
    }
}

fn say(link: BorrowedFd<'_>, word: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(link, &[IoSlice::new(word.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn hear(link: BorrowedFd<'_>) -> io::Result<(String, Option<OwnedFd>)> {
    let mut word = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(link, &mut [IoSliceMut::new(&mut word)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    word.truncate(got.bytes);
    Ok((String::from_utf8_lossy(&word).into_owned(), fd))
}

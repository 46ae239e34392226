//! Sending with an address or with ancillary data: the message is copied out of the agent's memory in full, judged,
//! and sent by the supervisor on a duplicate of the task's socket.

#![allow(unsafe_code, reason = "sendmsg with ancillary data; each block says why it is sound")]

use std::os::fd::{AsRawFd, OwnedFd};

use failcore_gate::Grant;
use failcore_model::{Action, Endpoint, Transport};
use rustix::io::Errno;
use rustix::net::SocketType;

use crate::brokered::Brokered;
use crate::call::{Call, Reply};
use crate::carried;
use crate::memory;
use crate::notify::last;
use crate::sockets::{Socket, connect_to, copied, peer};
use crate::walk::View;

/// The longest datagram, and how much of a stream is copied at once.
const MOST: usize = 1 << 20;
/// Most pieces of a message (`UIO_MAXIOV`).
const MOST_PIECES: usize = 1024;
/// Most ancillary data that is copied; the kernel's own limit is lower (`optmem_max`).
const MOST_CONTROL: usize = 64 << 10;

/// One message, with pointers into the task's memory only where its payload lies.
struct Message {
    name: Vec<u8>,
    pieces: Vec<(u64, usize)>,
    control: Vec<u8>,
}

/// `sendto(fd, bytes, length, flags, address, length)`.
pub(crate) fn sendto(call: &Call<'_>) -> Reply {
    let name = if call.arg(4) == 0 { Vec::new() } else { copied(call, call.arg(4), call.int(5))? };
    let len = usize::try_from(call.arg(2)).map_err(|_| Errno::INVAL)?;
    let message = Message { name, pieces: vec![(call.arg(1), len)], control: Vec::new() };
    let mut socket = Socket::of(call, call.int(0))?;
    let sent = send(call, &mut socket, &message, call.int(3))?;
    Ok(socket.answer(call, call.int(0), sent))
}

/// `sendmsg(fd, message, flags)`.
pub(crate) fn sendmsg(call: &Call<'_>) -> Reply {
    let message = header(call, call.arg(1))?;
    let mut socket = Socket::of(call, call.int(0))?;
    let sent = send(call, &mut socket, &message, call.int(2))?;
    Ok(socket.answer(call, call.int(0), sent))
}

/// `sendmmsg(fd, messages, count, flags)`.
pub(crate) fn sendmmsg(call: &Call<'_>) -> Reply {
    const SIZE: u64 = size_of::<libc::mmsghdr>() as u64;
    const SENT: u64 = size_of::<libc::msghdr>() as u64;
    let mut socket = Socket::of(call, call.int(0))?;
    let count = u64::from(call.int(2).cast_unsigned()).min(MOST_PIECES as u64);
    let mut done = 0;
    while done < count {
        let at = call.arg(1).checked_add(done * SIZE).ok_or(Errno::FAULT)?;
        let sent = header(call, at).and_then(|message| send(call, &mut socket, &message, call.int(3)));
        let sent = sent.and_then(|sent| {
            let length = u32::try_from(sent).unwrap_or(u32::MAX);
            memory::write(call.tid(), at + SENT, &length.to_ne_bytes())
        });
        match sent {
            Ok(()) => done += 1,
            Err(errno) if done == 0 => return Err(errno),
            // What was sent was sent; the reason shows with the next call.
            Err(_) => break,
        }
    }
    Ok(socket.answer(call, call.int(0), done.cast_signed()))
}

/// Copies a `struct msghdr` and all it points to but the payload.
fn header(call: &Call<'_>, at: u64) -> Result<Message, Errno> {
    let raw = memory::bytes(call.tid(), at, size_of::<libc::msghdr>())?;
    let word = |n: usize| u64::from_ne_bytes(raw[n * 8..n * 8 + 8].try_into().unwrap_or_default());
    let name_len = word(1) as u32;
    let name = match (word(0), name_len) {
        (0, _) | (_, 0) => Vec::new(),
        // The kernel takes no more than an address of any family has.
        (at, len) => copied(call, at, i32::try_from(len.min(128)).unwrap_or(128))?,
    };
    let count = usize::try_from(word(3)).ok().filter(|n| *n <= MOST_PIECES).ok_or(Errno::MSGSIZE)?;
    let vector = memory::bytes(call.tid(), word(2), count * 16)?;
    let pieces = vector
        .chunks_exact(16)
        .map(|piece| {
            let word = |n: usize| u64::from_ne_bytes(piece[n * 8..n * 8 + 8].try_into().unwrap_or_default());
            Ok((word(0), usize::try_from(word(1)).map_err(|_| Errno::INVAL)?))
        })
        .collect::<Result<_, Errno>>()?;
    let control_len = usize::try_from(word(5)).ok().filter(|n| *n <= MOST_CONTROL).ok_or(Errno::NOBUFS)?;
    let control = if word(4) == 0 { Vec::new() } else { memory::bytes(call.tid(), word(4), control_len)? };
    Ok(Message { name, pieces, control })
}

/// Judges and sends one message; how many bytes were taken.
fn send(call: &Call<'_>, socket: &mut Socket, message: &Message, flags: i32) -> Result<i64, Errno> {
    // Completions would have to come from pages of the task's memory.
    if flags & libc::MSG_ZEROCOPY != 0 {
        return Err(Errno::NOBUFS);
    }
    // Over the sockets of a network of our own we have privileges that are not the task's.
    if !message.control.is_empty() && call.shared.island_made().is_some_and(|island| island.has(&socket.fd)) {
        return Err(Errno::PERM);
    }
    let opens = flags & libc::MSG_FASTOPEN != 0;
    let flags = flags & !libc::MSG_FASTOPEN;
    let (control, _fds) = ancillary(call, &message.control)?;
    let mut name = Vec::new();
    let mut grant = None;
    if socket.is_unix_stream() && !message.name.is_empty() {
        return Err(if rustix::net::getpeername(&socket.fd).is_ok() {
            Errno::ISCONN
        } else {
            Errno::OPNOTSUPP
        });
    }
    // On a connected TCP stream the kernel does not look at the address, and neither do we: it is not handed on.
    let addressed = !message.name.is_empty() && (opens || socket.transport() != Transport::Tcp);
    let held;
    if addressed {
        let of: fn(Endpoint) -> Action = if opens { Action::Connect } else { Action::Send };
        held = peer(call, socket, &message.name, of)?.ok_or(Errno::INVAL)?;
        if let Some(brokered) = Brokered::of(call, &held.action) {
            let name = brokered.prepare(call, socket, message.control.is_empty())?;
            return transfer(call, socket, message, &name, &control, flags);
        }
        grant = Some(call.judge(held.action.clone())?);
        if let Some(why) = held.missing {
            return finish(call, grant, Err(why));
        }
        name.clone_from(&held.bytes);
    } else if opens {
        return Err(Errno::OPNOTSUPP);
    } else if !call.shared.listener.is_waiting(&call.notice) {
        return Err(Errno::SRCH);
    }
    if opens {
        let connected = match &grant {
            Some(grant) if carried::is_carried(call, grant) => carried::connect(call, socket, grant),
            _ => connect_to(call, socket, &name),
        };
        if let Err(errno) = connected {
            return finish(call, grant, Err(errno));
        }
        name.clear();
    }
    let sent = transfer(call, socket, message, &name, &control, flags);
    finish(call, grant, sent)
}

fn finish(call: &Call<'_>, grant: Option<Grant>, sent: Result<i64, Errno>) -> Result<i64, Errno> {
    match grant {
        Some(grant) => call.concluded(grant, sent),
        None => sent,
    }
}

/// Copies the payload and sends it: a datagram at once, a stream piece by piece as far as the socket takes it.
fn transfer(
    call: &Call<'_>,
    socket: &Socket,
    message: &Message,
    name: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<i64, Errno> {
    let stream = socket.kind == SocketType::STREAM;
    let total =
        message.pieces.iter().try_fold(0usize, |sum, (_, len)| sum.checked_add(*len)).ok_or(Errno::INVAL)?;
    if !stream && total > MOST {
        return Err(Errno::MSGSIZE);
    }
    let waits = socket.waits() && flags & libc::MSG_DONTWAIT == 0;
    let mut sent = 0;
    loop {
        let piece = payload(call, &message.pieces, sent, MOST)?;
        // Ancillary data goes with the first byte.
        let control = if sent == 0 { control } else { &[] };
        let act = || send_bytes(socket, name, &piece, control, flags);
        let result = if waits { socket.during(call, act) } else { act() };
        match result {
            Ok(now) => {
                sent += now;
                // What was stopped half way by no signal of the task's, as while the run is paused, goes on.
                let cut_short = now < piece.len() && !(waits && socket.waits_without_limit());
                if !stream || sent >= total || cut_short || piece.is_empty() {
                    break;
                }
            }
            Err(Errno::PIPE) if stream && flags & libc::MSG_NOSIGNAL == 0 && sent == 0 => {
                broken_pipe(call);
                return Err(Errno::PIPE);
            }
            Err(errno) if sent == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    i64::try_from(sent).map_err(|_| Errno::INVAL)
}

/// The payload's bytes from `skip` on, at most `most`.
fn payload(call: &Call<'_>, pieces: &[(u64, usize)], skip: usize, most: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut skip = skip;
    for (at, len) in pieces {
        if skip >= *len {
            skip -= len;
            continue;
        }
        let take = (len - skip).min(most - bytes.len());
        let from = at.checked_add(skip as u64).ok_or(Errno::FAULT)?;
        let start = bytes.len();
        bytes.resize(start + take, 0);
        memory::read_exact(call.tid(), from, &mut bytes[start..])?;
        skip = 0;
        if bytes.len() == most {
            break;
        }
    }
    Ok(bytes)
}

fn send_bytes(
    socket: &Socket,
    name: &[u8],
    payload: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    let mut piece = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: plain integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if !name.is_empty() {
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = libc::socklen_t::try_from(name.len()).unwrap_or(0);
    }
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len();
    }
    // SAFETY: everything the header points to is alive and only read.
    let sent = unsafe { libc::sendmsg(socket.fd.as_raw_fd(), &raw const header, flags | libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| last())
}

/// The signal that the task would have got.
fn broken_pipe(call: &Call<'_>) {
    // SAFETY: numbers only; the task waits for our answer, so that its number still means it.
    unsafe {
        libc::syscall(libc::SYS_tgkill, call.tgid(), call.tid(), libc::SIGPIPE);
    }
}

/// Ancillary data, rewritten: descriptors are the task's, and become ours for the time of the call; what would route
/// a packet to somebody else is refused; credentials are those of whoever sends.
fn ancillary(call: &Call<'_>, raw: &[u8]) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    const FLOW_LABEL: i32 = 11; // IPV6_FLOWINFO
    let (mut out, mut held) = (Vec::new(), Vec::new());
    let mut rest = raw;
    while rest.len() >= HEAD {
        let len = usize::try_from(u64::from_ne_bytes(rest[..8].try_into().unwrap_or_default()))
            .map_err(|_| Errno::INVAL)?;
        if len < HEAD || len > rest.len() {
            return Err(Errno::INVAL);
        }
        let int = |at: usize| i32::from_ne_bytes(rest[at..at + 4].try_into().unwrap_or_default());
        let data = &rest[HEAD..len];
        match (int(8), int(12)) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let mut ours = Vec::with_capacity(data.len());
                for fd in data.chunks_exact(4) {
                    let fd = i32::from_ne_bytes(fd.try_into().unwrap_or_default());
                    let duplicate = call.duplicate(fd)?;
                    ours.extend(duplicate.as_raw_fd().to_ne_bytes());
                    held.push(duplicate);
                }
                append(&mut out, &rest[..HEAD], &ours);
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => own_credentials(call, data)?,
            // By which routing table.
            (libc::SOL_SOCKET, libc::SO_MARK) => return Err(call.carried_elsewhere()),
            // By which interface (ip(7), ipv6(7), RFC 3542): loopback's addresses are other machines' elsewhere.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.get(..4) != Some(&[0; 4]) => {
                return Err(call.carried_elsewhere());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO | libc::IPV6_2292PKTINFO)
                if data.get(16..20) != Some(&[0; 4]) =>
            {
                return Err(call.carried_elsewhere());
            }
            // Source routes (as above), and the headers and the flow label that they can come in or with.
            (libc::IPPROTO_IP, libc::IP_RETOPTS)
            | (libc::IPPROTO_IPV6, libc::IPV6_RTHDR | 3..=5 | FLOW_LABEL | 54 | 55 | 59)
            // Further peers of an association (linux/sctp.h: SCTP_DSTADDRV4, SCTP_DSTADDRV6).
            | (libc::IPPROTO_SCTP, 7 | 8) => return Err(call.carried_elsewhere()),
            _ => append(&mut out, &rest[..HEAD], data),
        }
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok((out, held))
}

/// Whether credentials are the task's own, which is all that may be claimed without privilege (unix(7)).
fn own_credentials(call: &Call<'_>, data: &[u8]) -> Result<(), Errno> {
    let [pid, uid, gid] = <[u8; 12]>::try_from(data).map_err(|_| Errno::INVAL).map(|raw| {
        [0, 4, 8].map(|at| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]))
    })?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", call.tid())).unwrap_or_default();
    let has = |name: &str, id: u32| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().take(3).any(|one| one.parse() == Ok(id))
    };
    if pid == call.tgid() && has("Uid:", uid) && has("Gid:", gid) { Ok(()) } else { Err(Errno::PERM) }
}

fn append(out: &mut Vec<u8>, head: &[u8], data: &[u8]) {
    out.extend((head.len() + data.len()).to_ne_bytes());
    out.extend(&head[8..]);
    out.extend(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

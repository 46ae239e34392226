//! Requests of HTTP/1 that two programs could read differently, found before anybody reads them.
//!
//! The parser behind this one mends what it can, as most do, and passes on what it understood. What needs mending is what
//! request smuggling is made of: here it ends the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest head that is looked at.
const LONGEST: usize = 64 << 10;
/// What no parser takes for a request, handed on in place of what is wrong, so that it is answered as a bad request.
const NONSENSE: &[u8] = b"\0\r\n\r\n";

/// A stream whose requests are looked at as they are read.
pub(crate) struct Heads<S> {
    inner: S,
    watch: Watch,
    refused: Option<Refused>,
    /// Set once the connection has become something else than HTTP.
    opened: Arc<AtomicBool>,
    state: State,
}

type Refused = Box<dyn FnOnce(&'static str) + Send>;

enum State {
    Sound,
    /// How much of [`NONSENSE`] was handed on.
    Broken(usize),
}

impl<S> Heads<S> {
    /// Calls `refused` with what is wrong, at most once; from when `opened` is set, nothing is looked at any more.
    pub(crate) fn of(
        inner: S,
        opened: Arc<AtomicBool>,
        refused: impl FnOnce(&'static str) + Send + 'static,
    ) -> Self {
        Self { inner, watch: Watch::default(), refused: Some(Box::new(refused)), opened, state: State::Sound }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if let State::Sound = this.state {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            if this.opened.load(SeqCst) {
                return Poll::Ready(Ok(()));
            }
            let Err((sound, wrong)) = this.watch.see(&buf.filled()[before..]) else {
                return Poll::Ready(Ok(()));
            };
            if let Some(refused) = this.refused.take() {
                refused(wrong);
            }
            buf.set_filled(before + sound);
            this.state = State::Broken(0);
            if sound > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        if let State::Broken(said) = &mut this.state {
            let rest = &NONSENSE[*said..];
            let next = &rest[..rest.len().min(buf.remaining())];
            buf.put_slice(next);
            *said += next.len();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Where in a stream of requests one is, as far as it can be read in one way only.
#[derive(Default)]
pub struct Watch {
    at: At,
    /// The lines of a head, or the line of a chunked body, as far as they are here.
    held: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// So many bytes of a body are left.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk are left, with the end of its line.
    Chunk(u64),
    Trailers,
}

impl Watch {
    /// Looks at the next bytes.
    ///
    /// # Errors
    /// Where something is wrong: up to where they are sound, and what it is.
    ///
    /// # Security
    /// The bytes are the agent's. What is kept of them is one head at most.
    pub fn see(&mut self, bytes: &[u8]) -> Result<(), (usize, &'static str)> {
        let (mut at, mut sound) = (0, 0);
        while at < bytes.len() {
            if let At::Body(left) = &mut self.at {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                *left -= take as u64;
                at += take;
                if *left == 0 {
                    self.at = At::Head;
                }
                sound = at;
                continue;
            }
            if let At::Chunk(left) = &mut self.at {
                // The last two are the end of the line.
                let data = left.saturating_sub(2);
                let take = usize::try_from(data).unwrap_or(usize::MAX).min(bytes.len() - at);
                *left -= take as u64;
                at += take;
                if take == 0 {
                    let expected = if *left == 2 { b'\r' } else { b'\n' };
                    if bytes[at] != expected {
                        return Err((sound, "a chunk is longer than it says"));
                    }
                    *left -= 1;
                    at += 1;
                    if *left == 0 {
                        self.at = At::ChunkSize;
                    }
                }
                continue;
            }
            let byte = bytes[at];
            at += 1;
            self.held.push(byte);
            self.byte(byte).map_err(|wrong| (sound, wrong))?;
            if !self.held.ends_with(b"\r\n") {
                continue;
            }
            self.line().map_err(|wrong| (sound, wrong))?;
            if self.held.is_empty() && self.at == At::Head {
                sound = at;
            }
        }
        Ok(())
    }

    /// A byte of a head or of a line.
    fn byte(&self, byte: u8) -> Result<(), &'static str> {
        if self.held.len() > LONGEST {
            return Err("a head is too long");
        }
        let before = self.held.len().checked_sub(2).map(|at| self.held[at]);
        match (before, byte) {
            (Some(b'\r'), b'\n') => Ok(()),
            (Some(b'\r'), _) => Err("a carriage return stands alone"),
            (_, b'\n') => Err("a line ends without a carriage return"),
            (_, 0..=8 | 11 | 12 | 14..=31 | 127) => Err("there is a control character"),
            _ => Ok(()),
        }
    }

    /// The end of a line.
    fn line(&mut self) -> Result<(), &'static str> {
        match self.at {
            At::Head if self.held == b"\r\n" => Err("a request begins with an empty line"),
            At::Head if self.held.ends_with(b"\r\n\r\n") => {
                self.at = framing(&self.held)?;
                self.held.clear();
                Ok(())
            }
            At::ChunkSize => {
                let digits = &self.held[..self.held.len() - 2];
                let text = std::str::from_utf8(digits).ok().filter(|_| digits.len() <= 15);
                let hex = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
                let size = hex.and_then(|hex| u64::from_str_radix(hex, 16).ok());
                self.at = match size.ok_or("the size of a chunk is more than a number")? {
                    0 => At::Trailers,
                    size => At::Chunk(size + 2),
                };
                self.held.clear();
                Ok(())
            }
            At::Trailers => {
                if self.held == b"\r\n" {
                    self.at = At::Head;
                } else if field(&self.held[..self.held.len() - 2]).is_none() {
                    return Err("a trailer is no field");
                }
                self.held.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What follows a head, where it says that in one way only.
fn framing(head: &[u8]) -> Result<At, &'static str> {
    let text = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let mut lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    request_line(lines.next().unwrap_or_default())?;
    let (mut length, mut chunked, mut host) = (None, false, false);
    for line in lines {
        let (name, value) = field(line).ok_or("a field is folded, or has no proper name")?;
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits =
                std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
            let number = digits.and_then(|digits| digits.parse::<u64>().ok());
            if length.replace(number.ok_or("the length of a body is no number")?).is_some() {
                return Err("the length of a body is said twice");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err("a body is encoded for transfer in another way than in chunks");
            }
            if std::mem::replace(&mut chunked, true) {
                return Err("the encoding of a body is said twice");
            }
        } else if name.eq_ignore_ascii_case(b"host") && std::mem::replace(&mut host, true) {
            return Err("there are two hosts");
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err("a body has a length and is chunked"),
        (_, true) => Ok(At::ChunkSize),
        (Some(length @ 1..), false) => Ok(At::Body(length)),
        _ => Ok(At::Head),
    }
}

fn request_line(line: &[u8]) -> Result<(), &'static str> {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version, more) = (words.next(), words.next(), words.next(), words.next());
    if !method.is_some_and(|method| !method.is_empty() && method.iter().all(|byte| is_token(*byte))) {
        return Err("there is no method");
    }
    if !target.is_some_and(|target| !target.is_empty() && target.iter().all(u8::is_ascii_graphic)) {
        return Err("there is no target");
    }
    match (version, more) {
        (Some(b"HTTP/1.1" | b"HTTP/1.0"), None) => Ok(()),
        _ => Err("there is no version that is known"),
    }
}

/// A field's name and value (RFC 9112 section 5).
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    (!name.is_empty() && name.iter().all(|byte| is_token(*byte))).then_some((name, value))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong, in one piece and byte by byte.
    fn wrong(text: &str) -> Option<&'static str> {
        let whole = Watch::default().see(text.as_bytes()).err().map(|(_, wrong)| wrong);
        let mut watch = Watch::default();
        let bytes = text.bytes().find_map(|byte| watch.see(&[byte]).err()).map(|(_, wrong)| wrong);
        assert_eq!(whole, bytes, "{text:?}");
        whole
    }

    #[test]
    fn plain_requests_are_sound() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a?b=c HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\nDigest: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nEmpty:\r\nTab:\ta\r\n\r\n",
        ] {
            assert_eq!(wrong(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not() {
        let post = "POST / HTTP/1.1\r\nHost: a\r\n";
        for rest in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "Content-Length: 3, 3\r\n\r\n",
            "Content-Length: +3\r\n\r\n",
            "Content-Length: 0x3\r\n\r\n",
            "Content-Length:\r\n\r\n",
            "Content-Length: 99999999999999999999\r\n\r\n",
            "Transfer-Encoding: xchunked\r\n\r\n",
            "Transfer-Encoding: gzip, chunked\r\n\r\n",
            "Transfer-Encoding: chunked, identity\r\n\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Transfer-Encoding : chunked\r\n\r\n",
            "Transfer-Encoding:\x0bchunked\r\n\r\n",
            " folded: x\r\n\r\n",
            "X: a\r\n folded\r\n\r\n",
            "X: a\r\n\tfolded\r\n\r\n",
            "X: a\nY: b\r\n\r\n",
            "X: a\rY: b\r\n\r\n",
            "X: a\0b\r\n\r\n",
            "X: a\x10b\r\n\r\n",
            "X: a\x7f\r\n\r\n",
            "no colon\r\n\r\n",
            ": no name\r\n\r\n",
            "Host: b\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
            "Transfer-Encoding: chunked\r\n\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
            "Transfer-Encoding: chunked\r\n\r\n0\r\n folded\r\n\r\n",
        ] {
            let text = format!("{post}{rest}");
            assert!(wrong(&text).is_some(), "{text:?}");
        }
        for text in [
            "\r\nGET / HTTP/1.1\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 x\r\n\r\n",
            "GET /\r\n\r\n",
            "GET\t/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/1.1\n\n",
            "G(T / HTTP/1.1\r\n\r\n",
        ] {
            assert!(wrong(text).is_some(), "{text:?}");
        }
        assert!(wrong(&format!("{post}X: {}\r\n\r\n", "a".repeat(LONGEST))).is_some());
    }

    #[test]
    fn what_was_sound_before_is_handed_on() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let text = format!("{good}GET / HTTP/1.1\nHost: a\n\n");
        assert_eq!(Watch::default().see(text.as_bytes()).map_err(|(sound, _)| sound), Err(good.len()));
    }
}

//! How servers spell the names of the fields in their responses, which the parser does not tell: some programs look.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::lock;

/// Longest head that is looked at.
const LONGEST: usize = 64 << 10;

/// What has been read of one connection of HTTP/1 since its last request was sent, as far as heads go.
#[derive(Clone, Default)]
pub(crate) struct Spelt(Arc<Mutex<Vec<u8>>>);

/// The names of a response's fields, each as it stood.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Names(Vec<String>);

impl Spelt {
    /// The same stream, listened to.
    pub(crate) fn hear<S>(&self, stream: S) -> Heard<S> {
        Heard { stream, spelt: self.clone() }
    }

    /// Forgets what was read.
    pub(crate) fn begin(&self) {
        lock(&self.0).clear();
    }

    /// The names in the head that came since.
    pub(crate) fn names(&self) -> Names {
        Names::of(&lock(&self.0))
    }
}

impl Names {
    fn of(read: &[u8]) -> Self {
        let mut text = read;
        let mut names = Vec::new();
        loop {
            let mut lines = text.split_inclusive(|byte| *byte == b'\n');
            let Some(status) = lines.next() else { break };
            let mut length = status.len();
            names.clear();
            for line in lines {
                length += line.len();
                match line.iter().position(|byte| *byte == b':') {
                    Some(colon) => names.extend(str::from_utf8(&line[..colon]).map(str::to_owned)),
                    None => break,
                }
            }
            // One of those that come before the response itself (RFC 9110 section 15.2).
            let preliminary = status.get(9) == Some(&b'1') && status.get(9..12) != Some(b"101");
            if !preliminary {
                break;
            }
            text = &text[length..];
        }
        Self(names)
    }

    /// How this name stands there.
    pub(crate) fn spell<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.iter().find(|spelt| spelt.eq_ignore_ascii_case(name)).map_or(name, String::as_str)
    }
}

/// A stream of which the heads are written down.
pub(crate) struct Heard<S> {
    stream: S,
    spelt: Spelt,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let mut heard = lock(&self.spelt.0);
        let room = LONGEST - heard.len();
        heard.extend(buf.filled()[before..].iter().take(room));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_as_they_came() {
        let names = Names::of(b"HTTP/1.1 200 OK\r\nContent-LENGTH: 1\r\netag:x\r\n\r\nX-Body: 1\r\n");
        assert_eq!(names, Names(vec!["Content-LENGTH".into(), "etag".into()]));
        assert_eq!((names.spell("content-length"), names.spell("date")), ("Content-LENGTH", "date"));
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nDate: x\r\n\r\n";
        assert_eq!(Names::of(early), Names(vec!["Date".into()]));
        let changed = b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n";
        assert_eq!(Names::of(changed), Names(vec!["Upgrade".into()]));
        assert_eq!(Names::of(b""), Names::default());
    }
}

//! What is said on connections of a run that is recorded, or is run again: requests with their responses, and
//! conversations in turns.
//!
//! Where it is recorded, what passes is gathered on its way, and kept once it ended. Where it is run again nobody is asked:
//! each request gets the response that it had, and a conversation is played turn by turn.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use failcore_gate::{SinkError, Witness};
use failcore_model::heard::{Asked, End, Field, Said, Turn};
use failcore_model::{Claims, Text};
use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes, duplex};

use crate::body::{Passed, passed, said};
use crate::far::speak_one;
use crate::ride::PIECE;
use crate::spelt::Names;
use crate::{Error, lock};

/// How long a program has for its first words before the other side is heard: who speaks first differs.
pub(crate) const FIRST_WORDS: Duration = Duration::from_millis(300);

fn hex(hash: &Sha256) -> String {
    format!("{:x}", hash.clone().finalize())
}

// ---- requests -----------------------------------------------------------------------------------------------

/// A request on its way, whose response is going to be kept.
pub(crate) struct Heard {
    witness: Arc<dyn Witness>,
    method: String,
    url: String,
    /// Of its body, as far as that has passed.
    hash: Arc<Mutex<Sha256>>,
}

impl Heard {
    /// The request to send in its place, and what waits for its response.
    pub(crate) fn of(
        request: Request<Passed>,
        url: String,
        witness: &Arc<dyn Witness>,
    ) -> (Request<Passed>, Self) {
        let hash = Arc::<Mutex<Sha256>>::default();
        let method = request.method().as_str().to_owned();
        let heard = Self { witness: Arc::clone(witness), method, url, hash: Arc::clone(&hash) };
        (request.map(|inner| Hashed { inner, hash }.boxed()), heard)
    }

    /// Gathers the response as it passes.
    pub(crate) fn gather<B>(self, response: Response<B>) -> Response<Passed>
    where
        B: Body<Data = Bytes> + Unpin + Send + Sync + 'static,
        B::Error: Into<Error>,
    {
        let (parts, inner) = response.into_parts();
        let names = parts.extensions.get::<Names>().cloned().unwrap_or_default();
        let body = Gathered {
            inner,
            heard: self,
            status: parts.status.as_u16(),
            reason: parts.extensions.get::<ReasonPhrase>().map(|reason| Text::from(reason.as_bytes())),
            fields: fields(&parts.headers, &names),
            trailers: Vec::new(),
            bytes: BytesMut::new(),
            state: State::Passing,
        };
        Response::from_parts(parts, body.boxed())
    }

    fn hears(&self, said: Said, payload: Option<Vec<u8>>) -> Result<(), SinkError> {
        let (method, url) = (self.method.clone(), self.url.clone());
        // Whole by now, since a server answers a request that it has.
        let body = hex(&lock(&self.hash));
        self.witness.hears(Asked::Request { method, url, body }, said, payload)
    }
}

/// A body whose hash is taken as it passes.
struct Hashed<B> {
    inner: B,
    hash: Arc<Mutex<Sha256>>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Hashed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            lock(&self.hash).update(data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body that is gathered as it passes, and kept with its response once it ended, however that came.
struct Gathered<B: Body> {
    inner: B,
    heard: Heard,
    status: u16,
    reason: Option<Text>,
    fields: Vec<Field>,
    trailers: Vec<Field>,
    bytes: BytesMut,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Passing,
    /// More than is kept.
    TooLong,
    Ended(End),
    Kept,
}

impl<B: Body> Gathered<B> {
    fn keep(&mut self) -> Result<(), SinkError> {
        let end = match std::mem::replace(&mut self.state, State::Kept) {
            State::Kept => return Ok(()),
            State::TooLong => {
                let why = format!("it is longer than the {} bytes that are kept", self.heard.witness.most());
                return self.heard.hears(Said::Unkept { why }, None);
            }
            State::Ended(end) => end,
            State::Passing if self.inner.is_end_stream() => End::Whole,
            State::Passing => End::Left,
        };
        let (fields, trailers) = (std::mem::take(&mut self.fields), std::mem::take(&mut self.trailers));
        let said = Said::Response { status: self.status, reason: self.reason.take(), fields, trailers, end };
        let bytes = std::mem::take(&mut self.bytes).into();
        self.heard.hears(said, Some(bytes))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Gathered<B>
where
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame.map(|frame| frame.map_err(Into::into)),
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.trailers.extend(fields(trailers, &Names::default()));
                }
                if let Some(data) = frame.data_ref().filter(|_| this.state == State::Passing) {
                    if this.bytes.len() as u64 + data.len() as u64 > this.heard.witness.most() {
                        (this.bytes, this.state) = (BytesMut::new(), State::TooLong);
                    } else {
                        this.bytes.extend_from_slice(data);
                    }
                }
            }
            Some(Err(_)) if this.state == State::Passing => this.state = State::Ended(End::Broken),
            None if this.state == State::Passing => this.state = State::Ended(End::Whole),
            _ => {}
        }
        // Before the program sees its end.
        if !matches!(frame, Some(Ok(_)))
            && let Err(error) = this.keep()
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Body> Drop for Gathered<B> {
    fn drop(&mut self) {
        // What cannot be kept now ends the recording, which says so.
        let _ = self.keep();
    }
}

/// The response that a request had.
pub(crate) async fn played(
    witness: &dyn Witness,
    request: Request<Passed>,
    url: &str,
    claims: &Claims,
) -> Result<Response<Passed>, Error> {
    let (parts, mut body) = request.into_parts();
    let mut hash = Sha256::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            hash.update(data);
        }
    }
    let (method, url) = (parts.method.as_str().to_owned(), url.to_owned());
    let asked = Asked::Request { method, url, body: hex(&hash) };
    let Some((Said::Response { status, reason, fields, trailers, end }, bytes)) =
        witness.recalls(&asked, claims)?
    else {
        return Err("nothing is recorded of it".into());
    };
    let message = message((status, reason), &fields, &trailers, bytes, end)?;
    // By the parser that read it then, so that what comes of it is the same.
    let (near, mut far) = duplex(PIECE);
    tokio::spawn(async move {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") && far.read_buf(&mut asked).await? > 0 {}
        far.write_all(&message).await?;
        if end == End::Left {
            // There was more, and it goes before that.
            while far.read_buf(&mut asked).await? > 0 {}
        }
        far.shutdown().await
    });
    let mut link = speak_one(near).await?;
    let request = Request::builder().method(parts.method).uri("/").body(said(""))?;
    Ok(link.send_request(request).await?.map(passed))
}

/// A response as it stands on a connection of HTTP/1.
fn message(
    (status, reason): (u16, Option<Text>),
    fields: &[Field],
    trailers: &[Field],
    body: Vec<u8>,
    end: End,
) -> Result<Vec<u8>, Error> {
    let status = StatusCode::from_u16(status)?;
    let usual = || Text::from(status.canonical_reason().unwrap_or_default());
    let reason = reason.unwrap_or_else(usual);
    let mut message = [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"].concat();
    let is = |field: &Field, name: &HeaderName| {
        field.name.as_bytes().eq_ignore_ascii_case(name.as_str().as_bytes())
    };
    let chunked = fields.iter().any(|field| is(field, &TRANSFER_ENCODING));
    let line = |message: &mut Vec<u8>, field: &Field| {
        message.extend([field.name.as_bytes(), b": ", field.value.as_bytes(), b"\r\n"].concat());
    };
    fields.iter().for_each(|field| line(&mut message, field));
    let chunks = chunked || !trailers.is_empty();
    if chunks && !chunked {
        message.extend(b"transfer-encoding: chunked\r\n");
    }
    message.extend(b"\r\n");
    if !chunks {
        message.extend(body);
        return Ok(message);
    }
    if !body.is_empty() {
        message.extend(format!("{:x}\r\n", body.len()).into_bytes());
        message.extend(body);
        message.extend(b"\r\n");
    }
    if end == End::Whole {
        message.extend(b"0\r\n");
        trailers.iter().for_each(|field| line(&mut message, field));
        message.extend(b"\r\n");
    }
    Ok(message)
}

fn fields(headers: &HeaderMap, names: &Names) -> Vec<Field> {
    let field = |(name, value): (&HeaderName, &HeaderValue)| Field {
        name: Text::from(names.spell(name.as_str())),
        value: Text::from(value.as_bytes()),
    };
    headers.iter().map(field).collect()
}

// ---- conversations ------------------------------------------------------------------------------------------

/// A conversation so far.
#[derive(Default)]
struct Spoken {
    hash: Sha256,
    said: u64,
    turns: Vec<Turn>,
    heard: Vec<u8>,
    too_long: bool,
    ended: bool,
    kept: bool,
}

/// Ties both ends of an upgraded connection together; without one of them, what is recorded of it.
pub(crate) async fn tie(
    near: OnUpgrade,
    far: OnUpgrade,
    witness: Option<Arc<dyn Witness>>,
    url: String,
    claims: Claims,
) -> Result<(), Error> {
    if let Some(witness) = witness.as_ref().filter(|witness| witness.plays()) {
        return play(TokioIo::new(near.await?), witness.as_ref(), url, &claims).await;
    }
    let (near, far) = tokio::try_join!(near, far)?;
    let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
    match witness {
        Some(witness) => converse(near, far, witness.as_ref(), url).await,
        None => {
            copy_bidirectional_with_sizes(&mut near, &mut far, PIECE, PIECE).await?;
            Ok(())
        }
    }
}

/// Passes on what both sides say, and keeps it once that is over, however that came.
pub(crate) async fn converse<N, F>(
    mut near: N,
    mut far: F,
    witness: &dyn Witness,
    with: String,
) -> Result<(), Error>
where
    N: AsyncRead + AsyncWrite + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    let keeping = Keeping { witness, with, spoken: Mutex::default() };
    let (mut near_reads, mut near_writes) = tokio::io::split(&mut near);
    let (mut far_reads, mut far_writes) = tokio::io::split(&mut far);
    let saying = async {
        let mut piece = vec![0; PIECE];
        loop {
            let read = near_reads.read(&mut piece).await?;
            if read == 0 {
                far_writes.shutdown().await?;
                return Ok::<_, Error>(());
            }
            keeping.said(&piece[..read]);
            far_writes.write_all(&piece[..read]).await?;
            far_writes.flush().await?;
        }
    };
    let hearing = async {
        let mut piece = vec![0; PIECE];
        loop {
            let read = far_reads.read(&mut piece).await?;
            if read == 0 {
                lock(&keeping.spoken).ended = true;
                near_writes.shutdown().await?;
                return Ok::<_, Error>(());
            }
            keeping.heard(&piece[..read]);
            near_writes.write_all(&piece[..read]).await?;
            near_writes.flush().await?;
        }
    };
    // Either may end its own words first, and still listen.
    let passed = tokio::try_join!(saying, hearing).map(drop);
    keeping.keep()?;
    passed
}

struct Keeping<'a> {
    witness: &'a dyn Witness,
    with: String,
    spoken: Mutex<Spoken>,
}

impl Keeping<'_> {
    fn said(&self, bytes: &[u8]) {
        let mut spoken = lock(&self.spoken);
        spoken.hash.update(bytes);
        spoken.said += bytes.len() as u64;
    }

    fn heard(&self, bytes: &[u8]) {
        let mut spoken = lock(&self.spoken);
        let Spoken { hash, said, turns, heard, too_long, .. } = &mut *spoken;
        if *too_long || heard.len() as u64 + bytes.len() as u64 > self.witness.most() {
            *too_long = true;
            return;
        }
        heard.extend_from_slice(bytes);
        match turns.last_mut().filter(|turn| turn.said == *said) {
            Some(turn) => turn.heard += bytes.len() as u64,
            None => turns.push(Turn { said: *said, sha256: hex(hash), heard: bytes.len() as u64 }),
        }
    }

    fn keep(&self) -> Result<(), SinkError> {
        let fresh = Spoken { kept: true, ..Spoken::default() };
        let mut spoken = std::mem::replace(&mut *lock(&self.spoken), fresh);
        if spoken.kept {
            return Ok(());
        }
        let asked = Asked::Conversation { with: self.with.clone() };
        if spoken.too_long {
            let why = format!("it is longer than the {} bytes that are kept", self.witness.most());
            return self.witness.hears(asked, Said::Unkept { why }, None);
        }
        // What was said last is compared too.
        if spoken.turns.last().map_or(0, |turn| turn.said) < spoken.said {
            spoken.turns.push(Turn { said: spoken.said, sha256: hex(&spoken.hash), heard: 0 });
        }
        let said = Said::Turns { turns: spoken.turns, ended: spoken.ended };
        self.witness.hears(asked, said, Some(spoken.heard))
    }
}

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        // The run is over, or the grant. What cannot be kept now ends the recording, which says so.
        let _ = self.keep();
    }
}

/// Plays the other side of a conversation: each turn once the program has said what it said then.
///
/// # Errors
/// Where it says something else, or more.
pub(crate) async fn play<N>(
    mut near: N,
    witness: &dyn Witness,
    with: String,
    claims: &Claims,
) -> Result<(), Error>
where
    N: AsyncRead + AsyncWrite + Unpin,
{
    let asked = Asked::Conversation { with };
    let Some((Said::Turns { turns, ended }, heard)) = witness.recalls(&asked, claims)? else {
        return Err("nothing is recorded of it".into());
    };
    let (mut hash, mut said, mut heard) = (Sha256::new(), 0, &heard[..]);
    let mut piece = vec![0; PIECE];
    for turn in turns {
        while said < turn.said {
            let most = usize::try_from(turn.said - said).unwrap_or(PIECE).min(PIECE);
            let read = near.read(&mut piece[..most]).await?;
            if read == 0 {
                // It says less than it did: what it does in its place is seen elsewhere.
                return Ok(());
            }
            hash.update(&piece[..read]);
            said += read as u64;
        }
        if hex(&hash) != turn.sha256 {
            witness.parts(&asked, claims, "it says something else");
            return Ok(());
        }
        let length = usize::try_from(turn.heard).unwrap_or(usize::MAX).min(heard.len());
        let (now, later) = heard.split_at(length);
        near.write_all(now).await?;
        near.flush().await?;
        heard = later;
    }
    if ended {
        near.shutdown().await?;
    }
    if near.read(&mut piece[..1]).await? > 0 {
        witness.parts(&asked, claims, "it says more");
    }
    Ok(())
}

//! Bodies on their way through: counted, never gathered.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use failcore_gate::{Gate, Grant};
use failcore_model::{Outcome, Timestamp};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{Error, lock};

/// What goes through.
pub(crate) type Passed = BoxBody<Bytes, Error>;

/// A granted request, until it is known how it came out: a failure is recorded, once.
#[derive(Clone)]
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    grant: Arc<Mutex<Option<Grant>>>,
}

impl Ticket {
    /// Without a grant nothing is recorded: it was granted with its connection.
    pub(crate) fn new(gate: Arc<Gate>, grant: Option<Grant>) -> Self {
        Self { gate, grant: Arc::new(Mutex::new(grant)) }
    }

    /// Records that the request failed, with an errno of the kernel's.
    pub(crate) fn fail(&self, errno: i32) {
        let grant = lock(&self.grant).take();
        if let Some(grant) = grant {
            self.gate.conclude(grant, Outcome::Failed(errno));
        }
    }
}

/// Quota exceeded (errno(3)), as for every budget.
pub(crate) const EDQUOT: i32 = 122;
/// Operation timed out.
pub(crate) const ETIMEDOUT: i32 = 110;

/// A text of ours.
pub(crate) fn said(text: impl Into<Bytes>) -> Passed {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// A body of somebody else's.
pub(crate) fn passed(body: Incoming) -> Passed {
    body.map_err(Into::into).boxed()
}

/// A body that passes as far as its budget and its grant reach.
pub(crate) struct Counted<B> {
    inner: B,
    left: Option<u64>,
    ends: Option<Pin<Box<Sleep>>>,
    ticket: Ticket,
}

impl<B: Body<Data = Bytes> + Unpin + Send + Sync + 'static> Counted<B>
where
    B::Error: Into<Error>,
{
    pub(crate) fn pass(inner: B, most: Option<u64>, ends: Option<Timestamp>, ticket: Ticket) -> Passed {
        let ends = ends.map(|ends| Box::pin(sleep_until(moment(ends))));
        Self { inner, left: most, ends, ticket }.boxed()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B>
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
        if let Some(ends) = &mut this.ends
            && ends.as_mut().poll(cx).is_ready()
        {
            this.ticket.fail(ETIMEDOUT);
            return Poll::Ready(Some(Err("the grant has ended".into())));
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame.map(|frame| frame.map_err(Into::into)),
        };
        let length = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Buf::remaining));
        if let (Some(left), Some(length)) = (&mut this.left, length) {
            match left.checked_sub(length as u64) {
                Some(less) => *left = less,
                None => {
                    this.ticket.fail(EDQUOT);
                    return Poll::Ready(Some(Err("the budget is used up".into())));
                }
            }
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

/// A time of the trace's clock as one of the timer's.
pub(crate) fn moment(at: Timestamp) -> Instant {
    let now = Timestamp::from(SystemTime::now());
    let left = std::time::Duration::from_nanos(at.0.saturating_sub(now.0));
    // Further than any run goes.
    Instant::now() + left.min(std::time::Duration::from_secs(365 * 86_400))
}

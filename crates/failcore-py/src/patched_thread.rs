//! Stand-ins on threads: a thread works for the tool that started it.

use crate::events::Judged;
use crate::hook_call::Call;
use crate::patched_fs::lost;
use crate::{hook_make, scope};

/// `_thread.start_new_thread(function, args[, kwargs])`, `_thread.start_joinable_thread(function, …)`.
pub(crate) fn start(call: &mut Call) -> Judged {
    let Some(held) = scope::current().held() else { return Ok(()) };
    let Some(function) = call.get(0, "function") else { return Ok(()) };
    let carried = hook_make::carry(function, held).ok_or_else(lost)?;
    call.replace(0, "function", carried).map_err(|()| lost())
}

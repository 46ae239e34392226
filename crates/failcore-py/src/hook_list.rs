//! A fresh list of answers, from which some are taken out.
#![allow(unsafe_code, reason = "edits a list in place")]

use std::net::IpAddr;

use pyo3::ffi;

use crate::events::Judged;
use crate::hook_object::Object;
use crate::hook_raise::Refusal;
use crate::monitor;

/// Keeps the entries of a list whose address `admit` keeps. Nobody else knows the list yet.
pub(crate) fn retain(
    list: Object<'_>,
    admit: impl FnOnce(&[IpAddr]) -> Result<Vec<IpAddr>, Box<Refusal>>,
    address: impl Fn(Object<'_>) -> Option<IpAddr>,
) -> Judged {
    let entries = list.items().filter(|_| list.is_list()).unwrap_or_default();
    let Some(found) = entries.iter().map(|entry| address(*entry)).collect::<Option<Vec<_>>>() else {
        return Err(monitor::broken("an answer has no address").into());
    };
    let kept = admit(&found)?;
    for (index, addr) in found.iter().enumerate().rev() {
        if !kept.contains(addr) {
            let at = index as ffi::Py_ssize_t;
            // SAFETY: it is a list, and going backwards the index is still that of the entry.
            let failed = unsafe { ffi::PyList_SetSlice(list.as_ptr(), at, at + 1, std::ptr::null_mut()) };
            if failed != 0 {
                // SAFETY: the GIL is held.
                unsafe { ffi::PyErr_Clear() };
                return Err(monitor::broken("an answer could not be taken out").into());
            }
        }
    }
    Ok(())
}

//! Enforcement in the interpreter: the native audit hook and the Python classes.
//!
//! The hook ([`hook`](crate)) sees an event, a decoder turns it into an action, the gates in force judge it, and a
//! refusal becomes an exception. Where an event says too little or there is none, a function of the interpreter
//! has a stand-in that judges the call itself. Only the files named `hook*` contain `unsafe`.

mod attach;
mod carried;
mod decode_fs;
mod decode_native;
mod decode_net;
mod decode_process;
mod events;
mod expected;
mod hook;
mod hook_attach;
mod hook_call;
mod hook_context;
mod hook_entry;
mod hook_list;
mod hook_make;
mod hook_object;
mod hook_open;
mod hook_patch;
mod hook_raise;
mod hook_site;
mod hook_socket;
mod hook_sqlite;
mod module;
mod monitor;
mod opening;
mod patched;
mod patched_fs;
mod patched_net;
mod patched_process;
mod patched_thread;
mod policy;
mod prepared;
mod program;
mod scope;
mod session;
mod sqlite;
mod supervised;
mod trace;

//! Carried connections: what a program says to a host is judged, request by request, before the host hears it.
//!
//! The supervisor makes a connection that is granted on that condition to the [`RelayServer`] on loopback, which makes the
//! other half to the very address that was asked for. Where rules speak of requests, or a credential is added, TLS is
//! opened with an authority that lives as long as the run; elsewhere the name in the first message is checked and
//! the bytes pass as they are.
//!
//! Nothing here decides: each request is an action for the gate.

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;

mod authority;
mod body;
mod credentials;
mod far;
mod heads;
mod idle;
mod requests;
mod ride;
mod route;
mod server;
mod spelt;
mod trust;
mod waiting;
mod witnessed;

pub use authority::Authority;
pub use credentials::{CredentialError, Credentials};
pub use heads::Watch;
pub use hyper_util::client::proxy::matcher::Matcher as Proxies;
pub use server::{RelayServer, Setup};
pub use trust::Trust;

/// Errors of streams and bodies, which nobody tells apart.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// How TLS is spoken, to both sides: as ring does, with 128 bits before 256, which nobody breaks either, whose hashes
/// processors know, and which cost half.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => (suite.tls13().is_none(), false),
        _ => (suite.tls13().is_none(), true),
    });
    provider
}

fn lock<T>(of: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

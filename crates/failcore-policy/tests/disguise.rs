//! An address is refused in whatever form it comes, and a name or `*` never leads inside.

#![allow(clippy::unwrap_used, reason = "what serves a test may panic as the test may")]

use failcore_model::{AbsPath, Action, Endpoint, HostName, Request, Transport};
use failcore_policy::{Environment, PolicySet};

/// Whether connecting to an address at port 80 is permitted, it having been resolved from `any.example`.
fn permitted(net: &str, addr: &str) -> bool {
    let text = format!("version = 1\n[net]\n{net}\n");
    let dir = AbsPath::new(b"/").unwrap();
    let policy = PolicySet::parse("test", &text, &dir, &Environment::default()).unwrap();
    let at = Endpoint::Inet {
        transport: Transport::Tcp,
        addr: (addr.parse::<std::net::IpAddr>().unwrap(), 80).into(),
    };
    let mut request =
        Request { action: Action::Connect(at), subject: Default::default(), context: Default::default() };
    request.context.names.push(HostName::parse("any.example").unwrap());
    policy.decide(&request).is_allow()
}

#[test]
fn a_deny_sees_through_every_form() {
    let net = "connect = [\"*:*\"]\ndeny = [\"8.8.0.0/16\"]";
    for addr in ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::5efe:8.8.8.8"] {
        assert!(permitted("connect = [\"*:*\"]", addr), "{addr}");
        assert!(!permitted(net, addr), "{addr}");
    }
    // Even where the form itself is granted as an address; the last is Teredo's server, not its client.
    for addr in ["::8.8.8.8", "2002:808:808::", "64:ff9b:1:808:8:800::", "2001:0:808:808::1"] {
        let grant = format!("connect = [\"[{addr}]:80\"]");
        assert!(permitted(&grant, addr), "{addr}");
        assert!(!permitted(&format!("{grant}\ndeny = [\"8.8.0.0/16\"]"), addr), "{addr}");
    }
}

#[test]
fn a_name_never_leads_inside() {
    for addr in [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "100.64.0.1",
        "::1",
        "::",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:db8::1",
        "fe80::1",
    ] {
        for net in ["connect = [\"any.example:80\"]", "connect = [\"*.example:80\"]", "connect = [\"*:*\"]"] {
            assert!(!permitted(net, addr), "{addr} by {net}");
        }
    }
    assert!(permitted("connect = [\"any.example:80\"]", "93.184.215.14"));
}

//! A program under supervision, for the tests: starts it, waits for its end, and closes the trace.
//!
//! Usage: `supervise POLICY TRACE-DIR -- PROGRAM [ARG…]`. Its exit code is the program's; 125 and 126 are our own. What
//! the kernel holds underneath is made of the policy that `PLANNED_BY` names, if it is set; `WITHOUT_LANDLOCK` of none.

#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a program of the tests")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use failcore_gate::{Gate, Nobody};
use failcore_kernel::{Features, Launch, Parent, Plan, Served, Server, Supervisor, lower};
use failcore_model::{AbsPath, Lane};
use failcore_net::{BrokerServer, Hosts, Pins, Resolver};
use failcore_policy::{Environment, PolicySet};
use failcore_trace::{SigningKey, Writer};
use rustix::process::{WaitOptions, set_child_subreaper, waitpid};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let policy = args.next().unwrap();
    let trace = std::path::absolute(args.next().unwrap()).unwrap();
    assert_eq!(args.next().unwrap(), "--");
    let program = args.next().unwrap();
    let policy = PolicySet::load(Path::new(&policy), &Environment::current()).unwrap();
    let own = AbsPath::lexical(trace.as_os_str().as_encoded_bytes()).unwrap();
    let policy = policy.protect(&[own]);
    let identities: Vec<_> = policy
        .literal_denies()
        .into_iter()
        .filter_map(|(id, path)| {
            use std::os::unix::fs::MetadataExt;
            let stat = std::fs::symlink_metadata(path.as_path()).ok()?;
            Some((id, failcore_model::FileId { dev: stat.dev(), ino: stat.ino() }))
        })
        .collect();
    let policy = Arc::new(policy.with_identities(&identities));
    std::fs::create_dir_all(&trace).unwrap();
    let key = SigningKey::load_or_create(&trace.join("key")).unwrap();
    let writer = Writer::create(&trace.join("trace"), "s1", &key, policy.resolved()).unwrap();
    let served = Served {
        session: "s1".into(),
        agent: None,
        run: None,
        policy: Arc::clone(&policy),
        supervised: true,
    };
    let server = Server::start(&trace.join("socket"), served, || Ok(writer), Arc::new(Nobody)).unwrap();
    set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let pins = Arc::new(Pins::new().with_hosts(Hosts::system()));
    let gate = Gate::builder(Arc::clone(&policy), server.sink(), Lane::Kernel)
        .names(pins.clone())
        .meter(server.meter())
        .build();
    let gate = Arc::new(gate);
    let broker = BrokerServer::start(Arc::clone(&gate), Resolver::system(pins)).unwrap();
    let launch =
        Launch { program, args: args.collect(), env: std::env::vars_os().collect(), ..Launch::default() };
    let planned = std::env::var_os("PLANNED_BY")
        .map(|file| PolicySet::load(Path::new(&file), &Environment::current()).unwrap());
    let (plan, _) = lower(planned.as_ref().unwrap_or(&policy), &Features::probe());
    let plan = if std::env::var_os("WITHOUT_LANDLOCK").is_some() { Plan::default() } else { plan };
    let parent = Parent { gate, door: None, broker: Some(broker.broker()), relay: None, witness: None };
    let code = match Supervisor::start(&launch, &plan, parent, || server.opened().is_ok()) {
        Ok(supervisor) => {
            let root = rustix::process::Pid::from_raw(supervisor.root().cast_signed());
            let status = loop {
                match waitpid(None, WaitOptions::empty()) {
                    Ok(Some((pid, status))) if Some(pid) == root => break status,
                    _ => {}
                }
            };
            supervisor.finish();
            status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or_default())
        }
        Err(error) => {
            eprintln!("supervise: {error}");
            126
        }
    };
    drop(broker);
    server.finish().unwrap().close(Some(code)).unwrap();
    ExitCode::from(u8::try_from(code).unwrap_or(255))
}

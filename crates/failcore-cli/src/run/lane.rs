//! Which lane a run gets, and what that lane holds. It is never quietly a weaker one than was asked for.

use failcore_gate::coverage;
use failcore_kernel::{Cgroup, CgroupError, Features, Mounts, Plan, lacking_capabilities};
use failcore_model::{Coverage, Hold, Lane};
use failcore_net::BrokerServer;
use failcore_policy::{Limits, PolicySet};
use failcore_relay::RelayServer;

use crate::args::LaneChoice;
use crate::failure::Problem;

/// The lane of a run, where this machine holds it.
pub(super) fn choose(choice: LaneChoice) -> Result<Lane, Problem> {
    match choice {
        LaneChoice::Runtime => Ok(Lane::Runtime),
        LaneChoice::Auto | LaneChoice::Kernel => match Features::probe().missing() {
            None => Ok(Lane::Kernel),
            Some(missing) => Err(Problem::LaneMissing { missing }),
        },
    }
}

/// Whether the lane and this process can let the program keep the capabilities that the policy names, and no others.
pub(super) fn check_capabilities(lane: Lane, policy: &PolicySet) -> Result<(), Problem> {
    let keep = policy.capabilities();
    if keep.is_empty() {
        return Ok(());
    }
    let (what, help) = if lane == Lane::Runtime {
        (
            "the runtime lane takes no capabilities away, and the policy names those to keep".to_owned(),
            "run with `--lane kernel`, or take `[capabilities]` out of the policy",
        )
    } else {
        let lacking: Vec<String> = lacking_capabilities(&keep).iter().map(|one| format!("`{one}`")).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        (
            format!("the policy keeps {}, which this process does not have itself", lacking.join(", ")),
            "start `failcore` as root, or take it out of `[capabilities] keep`",
        )
    };
    Err(Problem::Capabilities { what, help })
}

/// Whether the lane can carry the connections that the policy wants carried.
pub(super) fn check_carried(lane: Lane, policy: &PolicySet) -> Result<(), Problem> {
    match policy.carried().next() {
        Some(rule) if lane == Lane::Runtime => {
            Err(Problem::Uncarried { rule: rule.text.clone(), place: rule.place() })
        }
        _ => Ok(()),
    }
}

/// Whether the lane asks the name servers that the policy names, and no others.
pub(super) fn check_upstream(lane: Lane, policy: &PolicySet) -> Result<(), Problem> {
    if lane == Lane::Kernel || policy.upstream().is_empty() {
        return Ok(());
    }
    Err(Problem::Upstream {
        why: "in the runtime lane the program looks names up itself".into(),
        help: "run with `--lane kernel`, or take `[dns]` out of the policy",
    })
}

/// What the kernel is to hold of a policy in a lane, and what is held in all: the cgroup of the run `session`, if there can
/// be one, is made on the way.
pub(super) fn lower(
    lane: Lane,
    session: &str,
    policy: &PolicySet,
    mounts: &Mounts,
) -> (Option<Cgroup>, Plan, Coverage) {
    let hook = coverage::runtime(Hold::Binding);
    if lane == Lane::Runtime {
        return (None, Plan::default(), hook);
    }
    let (plan, mut coverage) = failcore_kernel::lower(policy, &Features::probe());
    BrokerServer::covers(&mut coverage, policy.upstream());
    RelayServer::covers(&mut coverage, policy);
    let cgroup = Cgroup::create(session, policy.limits(), mounts);
    coverage.notes.extend(limits_held(policy.limits(), cgroup.as_ref()));
    (cgroup.ok(), plan, coverage.beside(&hook))
}

/// Who holds the limits, and how closely.
fn limits_held(limits: &Limits, cgroup: Result<&Cgroup, &CgroupError>) -> Vec<String> {
    let mut notes = vec![match cgroup {
        Ok(cgroup) => format!("the run has a cgroup of its own: {}", cgroup.path().display()),
        Err(why) => format!("the run has no cgroup of its own ({why}): its processes are found by descent"),
    }];
    let lacks = |controller| cgroup.map_or(Some("without a cgroup"), |cgroup| cgroup.lacks(controller));
    if limits.memory.is_some() {
        notes.push(match lacks("memory") {
            None => "limits.memory is held by the kernel".into(),
            Some(why) => format!("limits.memory is measured, and can be passed in between ({why})"),
        });
    }
    if limits.processes.is_some() {
        notes.push("limits.processes is held by the supervisor, at each fork".into());
        notes.push(match lacks("pids") {
            None => "the kernel bounds threads too".into(),
            Some(why) => format!("nothing bounds threads ({why})"),
        });
    }
    if limits.write_bytes.is_some() {
        notes.push("limits.write_bytes is measured, and can be passed in between".into());
    }
    notes
}

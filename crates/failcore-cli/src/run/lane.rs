//! Which lane a run gets, and what that lane holds. It is never quietly a weaker one than was asked for.

use failcore_gate::coverage;
use failcore_kernel::{Features, Plan};
use failcore_model::{Coverage, Hold, Lane};
use failcore_net::Broker;
use failcore_policy::PolicySet;

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

/// What the kernel is to hold of a policy in a lane, and what is held in all.
pub(super) fn lower(lane: Lane, policy: &PolicySet) -> (Plan, Coverage) {
    let hook = coverage::runtime(Hold::Binding);
    if lane == Lane::Runtime {
        return (Plan::default(), hook);
    }
    let (plan, mut coverage) = failcore_kernel::lower(policy, &Features::probe());
    Broker::covers(&mut coverage);
    (plan, coverage.beside(&hook))
}

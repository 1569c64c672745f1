//! Evidence that something was permitted before it is carried.

use mesh_common::route::Plan;

/// Stands for the plan behind a course. Only a [`Plan`] gives one, only `route` makes a plan, and only from a permit
/// of `policy`: what was not authorised cannot be carried.
#[derive(Clone, Copy, Debug)]
pub struct Planned(());

impl From<&Plan> for Planned {
    fn from(_: &Plan) -> Self {
        Self(())
    }
}

#[cfg(test)]
impl Planned {
    /// For engines that are tested without the stages before them.
    pub(crate) fn for_test() -> Self {
        Self(())
    }
}

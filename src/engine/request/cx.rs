//! What does every stage of a request get?

use std::sync::Arc;

use super::super::{Engine, Route};
use super::admission::Plan;

/// The context of a request: the cache, the route's settings, and how the request is looked up.
pub(in crate::engine) struct Cx<St> {
    pub(in crate::engine) engine: Arc<Engine<St>>,
    pub(in crate::engine) route: Arc<Route>,
    pub(in crate::engine) plan: Plan,
}

impl<St> Clone for Cx<St> {
    fn clone(&self) -> Self {
        let (engine, route) = (Arc::clone(&self.engine), Arc::clone(&self.route));
        Self { engine, route, plan: self.plan.clone() }
    }
}

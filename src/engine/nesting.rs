//! Two layers of one cache around the same handler: one around a router and another, with a policy of its own,
//! around a route. They would look for the same key, wait for one another and store the same response twice.
//! The inner one, which knows more, does all the work that there is.

use std::sync::Arc;

use http::Extensions;
use http::request::Parts as Request;
use http::response::Parts as Response;

use super::Engine;

/// Why the outer layer does not store a response: the inner one has decided.
pub(super) const INNER_LAYER: &str = "inner-layer";

/// In a request: it is inside of this cache.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Inside(usize);

/// In a response: an inner layer of the cache around it has dealt with it.
#[derive(Clone, Copy)]
struct Answered;

fn id<St>(engine: &Arc<Engine<St>>) -> Inside {
    Inside(Arc::as_ptr(engine).addr())
}

/// To be called for a request that goes inside.
pub(super) fn enter<St>(engine: &Arc<Engine<St>>, request: &mut Request) {
    request.extensions.insert(id(engine));
}

/// Whether a request is inside of this cache already.
pub(crate) fn is_inside<St>(engine: &Arc<Engine<St>>, request: &Request) -> bool {
    request.extensions.get::<Inside>() == Some(&id(engine))
}

/// To be called for the response to a request that was.
pub(crate) fn answered(extensions: &mut Extensions) {
    extensions.insert(Answered);
}

/// Whether a response comes out of an inner layer, which has done with what is stored all that there is to do.
pub(super) fn is_answered(extensions: &Extensions) -> bool {
    extensions.get::<Answered>().is_some()
}

/// Whether a response comes out of an inner layer, to the outer one, which takes the mark off.
pub(super) fn is_answered_by(response: &mut Response) -> bool {
    response.extensions.remove::<Answered>().is_some()
}

//! Two layers of one cache around the same handler: one around a router and another, with a policy of its own,
//! around a route. They would look for the same key, wait for one another and store the same response twice.
//! The inner one, which knows more, does all the work that there is.

use std::sync::Arc;

use http::Extensions;
use http::request::Parts as Request;
use http::response::Parts as Response;

use super::super::Engine;

/// In a request: the caches that it is inside of.
#[derive(Clone, Default)]
struct PassedThrough(Vec<Id>);

/// In a response: the caches of which an inner layer has dealt with it, and the one around that has not heard of
/// it yet.
#[derive(Clone, Default)]
struct HandledInside(Vec<Id>);

/// Which cache it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(usize);

fn id<St>(engine: &Arc<Engine<St>>) -> Id {
    Id(Arc::as_ptr(engine).addr())
}

/// To be called for a request that goes inside.
pub(in crate::engine) fn mark_request<St>(engine: &Arc<Engine<St>>, request: &mut Request) {
    let id = id(engine);
    let PassedThrough(caches) = request.extensions.get_or_insert_default();
    if !caches.contains(&id) {
        caches.push(id);
    }
}

/// The cache, if a request is inside of it already.
pub(crate) fn is_inside<St>(engine: &Arc<Engine<St>>, request: &Request) -> Option<Id> {
    let PassedThrough(caches) = request.extensions.get()?;
    Some(id(engine)).filter(|id| caches.contains(id))
}

/// To be called for the response to a request that was.
pub(crate) fn answered(id: Id, extensions: &mut Extensions) {
    let HandledInside(caches) = extensions.get_or_insert_default();
    caches.push(id);
}

/// Whether a response comes out of an inner layer of this cache, which has done with what is stored all that there is
/// to do.
pub(in crate::engine) fn is_answered<St>(
    engine: &Arc<Engine<St>>,
    extensions: &Extensions,
) -> bool {
    extensions
        .get::<HandledInside>()
        .is_some_and(|HandledInside(caches)| caches.contains(&id(engine)))
}

/// The same, to the outer layer, which takes the mark off.
pub(in crate::engine) fn is_answered_by<St>(
    engine: &Arc<Engine<St>>,
    response: &mut Response,
) -> bool {
    let id = id(engine);
    let Some(HandledInside(caches)) = response.extensions.get_mut() else { return false };
    let before = caches.len();
    caches.retain(|cache| *cache != id);
    caches.len() < before
}

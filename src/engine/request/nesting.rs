//! Does a request pass two layers of one cache? For example one layer around a router, and another with its own
//! policy around a route. Both would look up the same key, wait for each other, and store the response twice. So the
//! inner layer, whose policy is more specific, does the work.

use std::sync::Arc;

use http::Extensions;
use http::request::Parts as Request;
use http::response::Parts as Response;

use super::super::Engine;

/// In a request: the caches whose layers it has passed.
#[derive(Clone, Default)]
struct PassedThrough(Vec<Id>);

/// In a response: the caches whose inner layer has handled it. The outer layer removes its mark.
#[derive(Clone, Default)]
struct HandledInside(Vec<Id>);

/// Identifies a cache in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(usize);

fn id<St>(engine: &Arc<Engine<St>>) -> Id {
    Id(Arc::as_ptr(engine).addr())
}

/// Must be called before the handler.
pub(in crate::engine) fn mark_request<St>(engine: &Arc<Engine<St>>, request: &mut Request) {
    let id = id(engine);
    let PassedThrough(caches) = request.extensions.get_or_insert_default();
    if !caches.contains(&id) {
        caches.push(id);
    }
}

/// The cache's id, if the request has already passed a layer of it.
pub(crate) fn is_inside<St>(engine: &Arc<Engine<St>>, request: &Request) -> Option<Id> {
    let PassedThrough(caches) = request.extensions.get()?;
    Some(id(engine)).filter(|id| caches.contains(id))
}

/// Must be called for the response of an inner layer.
pub(crate) fn answered(id: Id, extensions: &mut Extensions) {
    let HandledInside(caches) = extensions.get_or_insert_default();
    caches.push(id);
}

/// Whether an inner layer of this cache has handled the response. Then there is nothing left to store.
pub(in crate::engine) fn is_handled_inside<St>(
    engine: &Arc<Engine<St>>,
    extensions: &Extensions,
) -> bool {
    extensions
        .get::<HandledInside>()
        .is_some_and(|HandledInside(caches)| caches.contains(&id(engine)))
}

/// The same for the outer layer. Removes the mark.
pub(in crate::engine) fn take_inside_mark<St>(
    engine: &Arc<Engine<St>>,
    response: &mut Response,
) -> bool {
    let id = id(engine);
    let Some(HandledInside(caches)) = response.extensions.get_mut() else { return false };
    let before = caches.len();
    caches.retain(|cache| *cache != id);
    caches.len() < before
}

//! Which responses are stored for a target? The answer is for people.

use std::time::Instant;

use super::find::{log_verdict, lookup_targets};
use super::{Engine, Route};
use crate::error::ConfigError;
use crate::key::{CacheKey, variant_key};
use crate::store::{Store, StoreError};
use crate::stored::{Inspected, Stored, StoredResponse};

/// Lists the responses that are stored for an absolute URI.
pub(crate) async fn inspect<St: Store>(
    engine: &Engine<St>,
    route: &Route,
    uri: &str,
) -> Result<Vec<Inspected>, StoreError> {
    let (named, with_origin) = route.keys.targets_of_uri(uri)?;
    if !with_origin {
        let rule = "it must be an absolute URI: http://host/path";
        return Err(ConfigError::new("uri", uri, rule).into());
    }
    let began = Instant::now();
    let mut targets = Vec::new();
    for target in named {
        let new = lookup_targets(engine, route, &target).await?.into_iter();
        targets.extend(new.filter(|target| !targets.contains(target)).collect::<Vec<_>>());
    }
    let mut inspected = Vec::new();
    for target in targets {
        for (key, response) in responses(engine, route.keys.base_key(&target, &[])).await? {
            let validity = log_verdict(&engine.store, &key, &response, began).await?;
            let ttl_secs = crate::rfc9111::remaining_secs(&response.head, engine.store.now_ms());
            let StoredResponse { head, body, .. } = response;
            inspected.push(Inspected { key, head, body_bytes: body.len(), validity, ttl_secs });
        }
    }
    Ok(inspected)
}

/// The response under a target's key, or its variants.
async fn responses<St: Store>(
    engine: &Engine<St>,
    base: CacheKey,
) -> Result<Vec<(CacheKey, StoredResponse)>, StoreError> {
    let index = match engine.store.get(base.clone()).await? {
        None => return Ok(Vec::new()),
        Some(Stored::Response(response)) => return Ok(vec![(base, response)]),
        Some(Stored::Variants(index)) => index,
    };
    let keys: Vec<_> = index.variants.iter().map(|v| variant_key(&base, v)).collect();
    let found = engine.store.get_many(keys.clone()).await?;
    let responses = keys.into_iter().zip(found).filter_map(|(key, stored)| match stored {
        Some(Stored::Response(response)) => Some((key, response)),
        _ => None,
    });
    Ok(responses.collect())
}

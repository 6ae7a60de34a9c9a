//! What a handler says about one response.

use std::time::Duration;

use http::Extensions;

use crate::tag::Tag;

/// What a handler says about one response. It counts instead of the route's policy and of the response's own
/// `Cache-Control`. It is a response extension, and with axum also a part of a response:
///
/// ```
/// use std::time::Duration;
/// use tower_mysql_cache::CacheOverride;
///
/// // any tower service
/// let mut response = http::Response::new("rates");
/// CacheOverride::new().ttl(Duration::from_secs(30)).add_to(response.extensions_mut());
///
/// // axum
/// # #[cfg(feature = "axum")]
/// async fn rates() -> impl axum::response::IntoResponse {
///     (CacheOverride::new().ttl(Duration::from_secs(30)), "rates")
/// }
/// ```
///
/// The override never leaves the process, because the layer removes it from the response.
///
/// # Several in one response
/// A handler, its extractors and each layer around it may add one. They are merged:
///
/// | setting | what counts |
/// |---|---|
/// | tags, and tags to invalidate | all of them |
/// | lifetime, stale windows | the shortest |
/// | [`no_store`](Self::no_store) | one is enough |
/// | [`shared`](Self::shared), [`with_set_cookie`](Self::with_set_cookie) | all overrides must say so, except overrides that have only tags or stale windows |
///
/// With axum, overrides that are parts of a response are merged. Elsewhere, add one with [`add_to`](Self::add_to).
/// `response.extensions_mut().insert(..)` replaces an earlier override and its tags, so that an invalidation of these
/// tags no longer covers the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheOverride {
    pub(crate) ttl: Option<Duration>,
    pub(crate) no_store: bool,
    pub(crate) shared: bool,
    pub(crate) with_set_cookie: bool,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) tags: Vec<Tag>,
    pub(crate) invalidates: Vec<Tag>,
    /// It has more than tags and stale windows.
    decides: bool,
}

impl CacheOverride {
    /// An override that says nothing.
    pub(crate) const NONE: Self = Self {
        ttl: None,
        no_store: false,
        shared: false,
        with_set_cookie: false,
        stale_while_revalidate: None,
        stale_if_error: None,
        tags: Vec::new(),
        invalidates: Vec::new(),
        decides: false,
    };

    /// An override that says nothing yet. Its methods can be called in any order.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let product = CacheOverride::new().tag("product:7").shared();
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self::NONE
    }

    /// The response is fresh for `ttl`, whatever its own fields say about its lifetime. Zero: it is not stored.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_mysql_cache::CacheOverride;
    /// let rates = CacheOverride::new().tag("rates").ttl(Duration::from_secs(30));
    /// # let _ = rates;
    /// ```
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self.decides = true;
        self
    }

    /// The response is not stored.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let draft = CacheOverride::new().no_store();
    /// # let _ = draft;
    /// ```
    #[must_use]
    pub const fn no_store(mut self) -> Self {
        self.no_store = true;
        self.decides = true;
        self
    }

    /// Adds a tag: an invalidation of the tag covers the response. A response may have any number of tags. If a tag is
    /// empty or has more than [`Tag::MAX_BYTES`], the response is not stored, and an error is logged.
    /// [`CachePolicy::tags`](crate::CachePolicy::tags) says how tags differ from cache groups.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let product = CacheOverride::new().tag("product:7").tag(format!("shop:{}", 3));
    /// # let _ = product;
    /// ```
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds several tags.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let list = CacheOverride::new().tags([7, 8].map(|id| format!("product:{id}")));
    /// # let _ = list;
    /// ```
    #[must_use]
    pub fn tags(mut self, tags: impl IntoIterator<Item: Into<Tag>>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// If this is the response to an unsafe request (`POST`, `PUT`, `PATCH`, `DELETE`, or an unknown method), the layer
    /// invalidates this tag before it returns the response. It does so on success, as for the target
    /// ([`CachePolicy::invalidates`](crate::CachePolicy::invalidates) has the rule), even where the target itself is not
    /// invalidated. In a response to a safe request, such as `GET`, it has no effect. Call it once for each tag. A tag
    /// that is empty or has more than [`Tag::MAX_BYTES`] is skipped, and an error is logged.
    ///
    /// The rows are written after the handler has returned, not in its transaction. If the process can be killed in
    /// between, write them with [`CacheHandle::invalidate_on`](crate::CacheHandle::invalidate_on) instead.
    ///
    /// This is a tag, not a group of `Cache-Group-Invalidation` (RFC 9875):
    /// [`CachePolicy::tags`](crate::CachePolicy::tags) has the difference.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let saved = CacheOverride::new().invalidates("product:7").invalidates("products");
    /// # let _ = saved;
    /// ```
    #[must_use]
    pub fn invalidates(mut self, tag: impl Into<Tag>) -> Self {
        self.invalidates.push(tag.into());
        self
    }

    /// The response may be shared although it says `no-store` or `private`, or although its request had cookies,
    /// `Authorization` or other credentials.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let the_same_for_all = CacheOverride::new().shared();
    /// # let _ = the_same_for_all;
    /// ```
    ///
    /// # Warning
    /// **Every client that asks for this target gets this response.** Use it only if the response does not depend on
    /// the user.
    #[must_use]
    pub const fn shared(mut self) -> Self {
        self.shared = true;
        self.decides = true;
        self
    }

    /// The response may be stored with its `Set-Cookie` fields.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let banner_seen = CacheOverride::new().with_set_cookie();
    /// # let _ = banner_seen;
    /// ```
    ///
    /// # Warning
    /// **Every client that asks for this target gets these cookies.** With a session cookie, one user's session is given
    /// to all others.
    #[must_use]
    pub const fn with_set_cookie(mut self) -> Self {
        self.with_set_cookie = true;
        self.decides = true;
        self
    }

    /// How long the stale response may still be served while one request revalidates it in the background. It counts
    /// instead of the response's own directive and of the policy's
    /// [`stale_while_revalidate`](crate::CachePolicy::stale_while_revalidate). Zero forbids it. It does not lift
    /// `must-revalidate`, `proxy-revalidate`, `no-cache` or `s-maxage` of the response (RFC 9111 4.2.4). At most a year;
    /// more counts as a year.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::CacheOverride;
    /// let ticker = CacheOverride::new().stale_while_revalidate(Duration::ZERO);
    /// # let _ = ticker;
    /// ```
    #[must_use]
    pub const fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = Some(window);
        self
    }

    /// How long the stale response may be served instead of an error. It counts instead of the response's own directive
    /// and of the policy's [`stale_if_error`](crate::CachePolicy::stale_if_error). Zero forbids it. It lifts nothing that
    /// [`CacheOverride::stale_while_revalidate`] does not lift.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::CacheOverride;
    /// let rates = CacheOverride::new().stale_if_error(Duration::from_secs(3600));
    /// # let _ = rates;
    /// ```
    #[must_use]
    pub const fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = Some(window);
        self
    }

    /// Adds this override to a response, in handlers and layers of any tower service. It is merged with an earlier
    /// override, and does not replace it: see [above](Self#several-in-one-response).
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    ///
    /// fn with_tenant<B>(mut response: http::Response<B>) -> http::Response<B> {
    ///     CacheOverride::new().tag("tenant:7").add_to(response.extensions_mut());
    ///     response
    /// }
    /// ```
    pub fn add_to(self, response: &mut Extensions) {
        let merged = match response.remove::<Self>() {
            Some(there) => there.merged_with(self),
            None => self,
        };
        response.insert(merged);
    }

    fn merged_with(self, other: Self) -> Self {
        let decides = self.decides || other.decides;
        let permits = |permits: fn(&Self) -> bool| {
            let says_so = |said: &Self| permits(said) || !said.decides;
            decides && says_so(&self) && says_so(&other)
        };
        let (shared, with_set_cookie) =
            (permits(|said| said.shared), permits(|said| said.with_set_cookie));
        let shorter =
            |one: Option<Duration>, other: Option<Duration>| one.into_iter().chain(other).min();
        let mut tags = self.tags;
        tags.extend(other.tags);
        let mut invalidates = self.invalidates;
        invalidates.extend(other.invalidates);
        Self {
            ttl: shorter(self.ttl, other.ttl),
            no_store: self.no_store || other.no_store,
            shared,
            with_set_cookie,
            stale_while_revalidate: shorter(
                self.stale_while_revalidate,
                other.stale_while_revalidate,
            ),
            stale_if_error: shorter(self.stale_if_error, other.stale_if_error),
            tags,
            invalidates,
            decides,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn overrides_of_one_response_merge_whatever_their_order() {
        let new = CacheOverride::new;
        let ttl = |seconds| new().ttl(secs(seconds));
        let cases = [
            (vec![new().tag("a"), new().tag("b")], new().tags(["a", "b"])),
            (
                vec![new().invalidates("a"), new().invalidates("b").shared()],
                CacheOverride { invalidates: vec!["a".into(), "b".into()], ..new().shared() },
            ),
            (vec![ttl(9).tag("a"), new().tag("b")], ttl(9).tags(["a", "b"])),
            (vec![ttl(9), ttl(3), ttl(5)], ttl(3)),
            (vec![ttl(0), ttl(3)], ttl(0)),
            (vec![ttl(9).shared(), new().no_store()], {
                CacheOverride { ttl: Some(secs(9)), ..new().no_store() }
            }),
            // an override with only a tag says nothing about sharing, one with a lifetime does
            (vec![ttl(9).shared(), new().tag("a")], ttl(9).shared().tag("a")),
            (vec![ttl(9).shared(), ttl(9)], ttl(9)),
            (vec![ttl(9).shared(), new().shared()], ttl(9).shared()),
            (vec![new().with_set_cookie(), new().with_set_cookie()], new().with_set_cookie()),
            (vec![new().shared(), new().with_set_cookie(), new().shared()], {
                CacheOverride { decides: true, ..new() }
            }),
            (
                vec![new().stale_while_revalidate(secs(9)), new().stale_while_revalidate(secs(3))],
                new().stale_while_revalidate(secs(3)),
            ),
            (
                vec![new().stale_if_error(secs(9)).shared(), new().stale_if_error(secs(0))],
                new().stale_if_error(secs(0)).shared(),
            ),
        ];
        for (said, merged) in cases {
            let mut orders = vec![said.clone()];
            orders.push(said.into_iter().rev().collect());
            for order in orders {
                let mut extensions = Extensions::new();
                for said in order {
                    said.add_to(&mut extensions);
                }
                let mut found = extensions.remove::<CacheOverride>().unwrap();
                found.tags.sort_unstable();
                found.invalidates.sort_unstable();
                assert_eq!(found, merged);
            }
        }
    }
}

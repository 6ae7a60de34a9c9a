//! What a policy must be for the cache to work by it.

use std::time::Duration;

use http::HeaderName;

use super::{Beta, CachePolicy};
use crate::error::ConfigError;
use crate::tag::Tag;

/// Ten years: longer lifetimes than this are a mistake in units.
const MAX_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The largest limit that can be set: 1 GiB, under what a `LONGBLOB` and a packet can hold.
const LARGEST_MAX_BODY_BYTES: usize = 1 << 30;
/// More would hardly leave a lifetime.
const MAX_JITTER_PERCENT: u8 = 90;
const HOUR: Duration = Duration::from_secs(3600);

impl CachePolicy {
    /// Checks the policy.
    ///
    /// # Errors
    /// [`ConfigError`] naming the setting, its value and the rule:
    /// `ttl` over zero and at most ten years, `max_body_bytes` from 1 byte to 1 GiB, `statuses`
    /// final and neither 206 nor 304, `targeted` names of fields, `tags` of 1 to 255 bytes,
    /// the stale windows at most ten years, `handler_timeout` over zero, `early_refresh` over 0 and at most 100, `ttl_jitter` at most 90,
    /// `collapse_wait` at most an hour, `unshareable_for` at most a day,
    /// `lease` from 1 ms to an hour.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(ttl) = self.ttl {
            if ttl.is_zero() {
                let rule = "it must be over zero; CachePolicy::bypass() turns the cache off";
                return Err(ConfigError::new("ttl", ttl, rule));
            }
            if ttl > MAX_TTL {
                return Err(ConfigError::new("ttl", ttl, "it must be at most ten years"));
            }
        }
        if !(1..=LARGEST_MAX_BODY_BYTES).contains(&self.max_body_bytes) {
            let rule = "it must be from 1 byte to 1 GiB";
            return Err(ConfigError::new("max_body_bytes", self.max_body_bytes, rule));
        }
        for &status in self.statuses {
            if !(200..600).contains(&status) || status == 206 || status == 304 {
                let rule = "it must be from 200 to 599, and neither 206 nor 304";
                return Err(ConfigError::new("statuses", status, rule));
            }
        }
        self.tags.iter().try_for_each(|tag| Tag::from(*tag).check())?;
        for name in self.targeted {
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(ConfigError::new(
                    "targeted",
                    *name,
                    "it must be the name of a header field",
                ));
            }
        }
        self.validate_stale()
    }

    fn validate_stale(&self) -> Result<(), ConfigError> {
        for (setting, window) in [
            ("stale_while_revalidate", self.stale_while_revalidate),
            ("stale_if_error", self.stale_if_error),
        ] {
            if let Some(window) = window.filter(|window| *window > MAX_TTL) {
                let rule = "it must be at most ten years";
                return Err(ConfigError::new(setting, window, rule));
            }
        }
        if self.handler_timeout.is_some_and(|limit| limit.is_zero()) {
            let rule = "it must be over zero; leave it out to wait for the handler";
            return Err(ConfigError::new("handler_timeout", Duration::ZERO, rule));
        }
        if let Some(beta) = self.early_refresh.map(Beta::get)
            && !(beta > 0.0 && beta <= 100.0)
        {
            return Err(ConfigError::new(
                "early_refresh",
                beta,
                "it must be over 0 and at most 100",
            ));
        }
        if self.ttl_jitter_percent > MAX_JITTER_PERCENT {
            let rule = "it must be at most 90 percent";
            return Err(ConfigError::new("ttl_jitter", self.ttl_jitter_percent, rule));
        }
        for (setting, value, longest, rule) in [
            ("collapse_wait", self.collapse_wait, HOUR, "it must be at most 1 h"),
            ("unshareable_for", self.unshareable_for, HOUR * 24, "it must be at most 24 h"),
            ("lease", self.lease, HOUR, "it must be between 1 ms and 1 h"),
        ] {
            if value > longest || (setting == "lease" && value.as_millis() == 0) {
                return Err(ConfigError::new(setting, value, rule));
            }
        }
        Ok(())
    }
}

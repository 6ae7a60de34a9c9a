//! Policies in files: what serde reads and writes.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lists::{Lists, kept};
use super::{Beta, CachePolicy, Collapse, Mode};
use crate::cookies::{Authorization, Cookies};
use crate::error::ConfigError;

static STATUSES: Lists<StatusCode> = Lists::new(Default::default);
static FIELDS: Lists<HeaderName> = Lists::new(Default::default);

/// A policy in a file: a preset, and the settings that differ from it.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename = "CachePolicy", default, deny_unknown_fields)]
struct Form {
    #[serde(skip_serializing_if = "Preset::is_new")]
    preset: Preset,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<Length>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statuses: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_body_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookies: Option<CookiesForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<Authorization>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strip_set_cookies: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    targeted: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalidates: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_while_revalidate: Option<Length>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_if_error: Option<Length>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handler_timeout: Option<Length>,
    #[serde(skip_serializing_if = "Option::is_none")]
    early_refresh: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_jitter: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse: Option<Collapse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse_wait: Option<Length>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unshareable_for: Option<Length>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<Length>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalidates_on_write: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalidates_location: Option<bool>,
}

/// A constructor of [`CachePolicy`].
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Preset {
    #[default]
    New,
    Rfc9111,
    Bypass,
    PublicPage,
    HashedAsset,
    Search,
    UserApi,
}

impl Preset {
    fn is_new(&self) -> bool {
        *self == Self::New
    }

    fn policy(self) -> CachePolicy {
        match self {
            Self::New => CachePolicy::new(),
            Self::Rfc9111 => CachePolicy::rfc9111(),
            Self::Bypass => CachePolicy::bypass(),
            Self::PublicPage => CachePolicy::public_page(),
            Self::HashedAsset => CachePolicy::hashed_asset(),
            Self::Search => CachePolicy::search(),
            Self::UserApi => CachePolicy::user_api(),
        }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum CookiesForm {
    Bypass,
    Ignore,
    Key(Vec<String>),
    BypassIf(Vec<String>),
    Except(Vec<String>),
}

impl From<CookiesForm> for Cookies {
    fn from(form: CookiesForm) -> Self {
        match form {
            CookiesForm::Bypass => Self::Bypass,
            CookiesForm::Ignore => Self::Ignore,
            CookiesForm::Key(names) => Self::Key(CachePolicy::names(names)),
            CookiesForm::BypassIf(names) => Self::BypassIf(CachePolicy::names(names)),
            CookiesForm::Except(names) => Self::Except(CachePolicy::names(names)),
        }
    }
}

impl From<Cookies> for CookiesForm {
    fn from(cookies: Cookies) -> Self {
        match cookies {
            Cookies::Bypass => Self::Bypass,
            Cookies::Ignore => Self::Ignore,
            Cookies::Key(names) => Self::Key(strings(names)),
            Cookies::BypassIf(names) => Self::BypassIf(strings(names)),
            Cookies::Except(names) => Self::Except(strings(names)),
        }
    }
}

impl TryFrom<Form> for CachePolicy {
    type Error = ConfigError;

    fn try_from(form: Form) -> Result<Self, ConfigError> {
        let mut policy = form.preset.policy();
        macro_rules! set {
            ($($setting:ident),*) => {$(
                if let Some(value) = form.$setting {
                    policy = policy.$setting(value.into());
                }
            )*};
        }
        macro_rules! set_names {
            ($($setting:ident),*) => {$(
                if let Some(names) = form.$setting {
                    policy = policy.$setting(Self::names(names));
                }
            )*};
        }
        set!(ttl, max_body_bytes, cookies, authorization, early_refresh, ttl_jitter, collapse);
        set!(stale_while_revalidate, stale_if_error, handler_timeout, collapse_wait);
        set!(unshareable_for, lease, invalidates_on_write, invalidates_location);
        set_names!(strip_set_cookies, tags, invalidates);
        if let Some(codes) = form.statuses {
            let statuses = codes.into_iter().map(status).collect::<Result<_, _>>()?;
            policy = policy.statuses(kept(&STATUSES, statuses));
        }
        if let Some(names) = form.targeted {
            let names = names.iter().map(|name| field(name)).collect::<Result<_, _>>()?;
            policy = policy.targeted(kept(&FIELDS, names));
        }
        policy.validate()?;
        Ok(policy)
    }
}

impl From<&CachePolicy> for Form {
    fn from(policy: &CachePolicy) -> Self {
        let preset = match (policy.enabled, policy.mode) {
            (false, _) => Preset::Bypass,
            (true, Mode::Strict) => Preset::Rfc9111,
            (true, Mode::Safe) => Preset::New,
        };
        let base = preset.policy();
        macro_rules! differing {
            ($setting:ident, $form:expr) => {
                (policy.$setting != base.$setting).then_some(policy.$setting).map($form)
            };
        }
        macro_rules! length {
            ($setting:ident) => {
                policy.$setting.map(Length)
            };
        }
        let codes = |statuses: &[StatusCode]| statuses.iter().map(StatusCode::as_u16).collect();
        Self {
            preset,
            ttl: length!(ttl),
            statuses: differing!(statuses, codes),
            max_body_bytes: differing!(max_body_bytes, |bytes| bytes),
            cookies: differing!(cookies, CookiesForm::from),
            authorization: differing!(authorization, |value| value),
            strip_set_cookies: differing!(stripped_cookies, strings),
            targeted: differing!(targeted, strings),
            tags: differing!(tags, strings),
            invalidates: differing!(invalidates, strings),
            stale_while_revalidate: length!(stale_while_revalidate),
            stale_if_error: length!(stale_if_error),
            handler_timeout: length!(handler_timeout),
            early_refresh: policy.early_refresh.map(Beta::get),
            ttl_jitter: differing!(ttl_jitter_percent, |percent| percent),
            collapse: differing!(collapse, |value| value),
            collapse_wait: differing!(collapse_wait, Length),
            unshareable_for: differing!(unshareable_for, Length),
            lease: differing!(lease, Length),
            invalidates_on_write: differing!(invalidates_on_write, |on| on),
            invalidates_location: differing!(invalidates_location, |on| on),
        }
    }
}

fn strings<T: AsRef<str>>(names: &[T]) -> Vec<String> {
    names.iter().map(|name| name.as_ref().to_owned()).collect()
}

fn status(code: u16) -> Result<StatusCode, ConfigError> {
    let rule = "a status must be between 200 and 599, and neither 206 nor 304";
    StatusCode::from_u16(code).map_err(|_| ConfigError::new("statuses", code, rule))
}

fn field(name: &str) -> Result<HeaderName, ConfigError> {
    let rule = "it must be the name of a header field";
    name.parse().map_err(|_| ConfigError::new("targeted", name, rule))
}

/// A duration as people write it: `"30s"`, `"1h 30m"`, or a whole number of seconds, as in `max-age`.
struct Length(Duration);

impl From<Length> for Duration {
    fn from(Length(length): Length) -> Self {
        length
    }
}

impl Serialize for Length {
    /// With the largest unit of which it is a whole number.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const UNITS: [(&str, u128); 6] = [
            ("d", 86_400_000_000_000),
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
        ];
        let nanos = self.0.as_nanos();
        let fits = |(_, unit): &(&str, u128)| nanos > 0 && nanos.is_multiple_of(*unit);
        let (name, unit) = UNITS.into_iter().find(fits).unwrap_or(("ns", 1));
        serializer.collect_str(&format_args!("{}{name}", nanos / unit))
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lengths;
        impl Visitor<'_> for Lengths {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with a unit, such as \"30s\" or \"5m\", or a whole number of seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Length, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Str(text), &self);
                humantime::parse_duration(text).map(Length).map_err(wrong)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Length, E> {
                Ok(Length(Duration::from_secs(seconds)))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Length, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Signed(seconds), &self);
                u64::try_from(seconds).map_err(wrong).and_then(|seconds| self.visit_u64(seconds))
            }
        }
        deserializer.deserialize_any(Lengths)
    }
}

/// Needs the feature `serde`. The guide has [all names](crate::guide::storing#policies-in-files); an unknown name and a
/// policy that is not [valid](CachePolicy::validate) are errors.
///
/// ```
/// use std::time::Duration;
/// use tower_mysql_cache::{CachePolicy, Cookies};
///
/// let text = r#"{"ttl": "5m", "cookies": {"bypass_if": ["sid"]}, "tags": ["products"]}"#;
/// let policy: CachePolicy = serde_json::from_str(text).unwrap();
/// let same = CachePolicy::new()
///     .ttl(Duration::from_secs(300))
///     .cookies(Cookies::BypassIf(&["sid"]))
///     .tags(&["products"]);
/// assert_eq!(policy, same);
///
/// let error = serde_json::from_str::<CachePolicy>(r#"{"ttl": "0s"}"#).unwrap_err();
/// assert!(error.to_string().contains("it must be between 1 ms and ten years"));
/// ```
impl<'de> Deserialize<'de> for CachePolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Form::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }
}

/// Writes the settings that differ from [`CachePolicy::new`], or from the preset `rfc9111` or `bypass`. What is
/// written is read as an equal policy.
impl Serialize for CachePolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Form::from(self).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<CachePolicy, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn every_setting_can_be_read() {
        static SURROGATE: [HeaderName; 1] = [HeaderName::from_static("surrogate-control")];
        let all = json!({
            "ttl": "5m",
            "statuses": [200, 404],
            "max_body_bytes": 1000,
            "cookies": { "key": ["theme"] },
            "authorization": "key",
            "strip_set_cookies": ["seen"],
            "targeted": ["Surrogate-Control"],
            "tags": ["products"],
            "invalidates": ["shop"],
            "stale_while_revalidate": "1h 30m",
            "stale_if_error": 86400,
            "handler_timeout": "250ms",
            "early_refresh": 1.5,
            "ttl_jitter": 10,
            "collapse": "cluster",
            "collapse_wait": "1s",
            "unshareable_for": "1m",
            "lease": "30s",
            "invalidates_on_write": false,
            "invalidates_location": true,
        });
        let policy = CachePolicy::new()
            .ttl(secs(300))
            .statuses(&[StatusCode::OK, StatusCode::NOT_FOUND])
            .max_body_bytes(1000)
            .cookies(Cookies::Key(&["theme"]))
            .authorization(Authorization::Key)
            .strip_set_cookies(&["seen"])
            .targeted(&SURROGATE)
            .tags(&["products"])
            .invalidates(&["shop"])
            .stale_while_revalidate(secs(5400))
            .stale_if_error(secs(86400))
            .handler_timeout(Duration::from_millis(250))
            .early_refresh(1.5)
            .ttl_jitter(10)
            .collapse(Collapse::Cluster)
            .collapse_wait(secs(1))
            .unshareable_for(secs(60))
            .lease(secs(30))
            .invalidates_on_write(false)
            .invalidates_location(true);
        assert_eq!(read(all.clone()), Ok(policy));
        let names = all.as_object().unwrap().len();
        // a setting that is added to the policy has to be added here
        assert_eq!(serde_json::to_value(policy).unwrap().as_object().unwrap().len(), names);
    }

    #[test]
    fn a_policy_that_is_written_is_read_as_the_same() {
        let base = CachePolicy::new();
        for policy in [
            base,
            CachePolicy::rfc9111(),
            CachePolicy::rfc9111().cookies(Cookies::Bypass).invalidates_location(false),
            CachePolicy::bypass(),
            CachePolicy::bypass().invalidates_on_write(true),
            CachePolicy::public_page(),
            CachePolicy::hashed_asset(),
            CachePolicy::search(),
            CachePolicy::user_api(),
            base.cookies(Cookies::Except(&["consent"])).tags(&[]).statuses(&[]),
            base.ttl(Duration::from_micros(1500)).handler_timeout(Duration::from_nanos(1_234_567)),
            base.stale_if_error(Duration::ZERO).ttl(secs(90)),
        ] {
            let written = serde_json::to_value(policy).unwrap();
            assert_eq!(read(written.clone()), Ok(policy), "{written}");
        }
        let page = serde_json::to_value(base.ttl(secs(300)).stale_if_error(secs(172_800)));
        assert_eq!(page.unwrap(), json!({"ttl": "5m", "stale_if_error": "2d"}));
    }

    #[test]
    fn settings_add_to_their_preset() {
        let page = read(json!({"preset": "public_page", "ttl": 10})).unwrap();
        assert_eq!(page, CachePolicy::public_page().ttl(secs(10)));
        let read_preset = |name: &str| read(json!({ "preset": name })).unwrap();
        assert_eq!(read_preset("rfc9111"), CachePolicy::rfc9111());
        assert_eq!(read_preset("bypass"), CachePolicy::bypass());
        assert_eq!(read_preset("hashed_asset"), CachePolicy::hashed_asset());
        assert_eq!(read_preset("search"), CachePolicy::search());
        assert_eq!(read_preset("user_api"), CachePolicy::user_api());
        assert_eq!(read(json!({})), Ok(CachePolicy::new()));
    }

    #[test]
    fn errors_name_the_setting_and_the_rule() {
        for (wrong, parts) in [
            (json!({"tll": "5m"}), &["unknown field `tll`", "`ttl`"][..]),
            (json!({"ttl": "5 parsecs"}), &["5 parsecs", "such as \"30s\""]),
            (json!({"ttl": "5"}), &["\"5\"", "such as \"30s\""]),
            (json!({"ttl": -5}), &["-5", "a whole number of seconds"]),
            (json!({"ttl": 0.5}), &["0.5", "a whole number of seconds"]),
            (json!({"ttl": 0}), &["ttl is ", "between 1 ms and ten years"]),
            (json!({"statuses": [200, 7]}), &["statuses is ", "7", "between 200 and 599"]),
            (json!({"statuses": [206]}), &["statuses is ", "206", "neither 206 nor 304"]),
            (json!({"targeted": ["a b"]}), &["targeted is ", "name of a header field"]),
            (json!({"tags": [""]}), &["tag is ", "byte"]),
            (json!({"cookies": "keys"}), &["unknown variant `keys`", "`bypass_if`"]),
            (json!({"cookies": {"key": []}}), &["cookies is "]),
            (json!({"preset": "page"}), &["unknown variant `page`", "`public_page`"]),
            (json!({"collapse": true}), &["collapse"]),
        ] {
            let error = read(wrong).unwrap_err();
            for part in parts {
                assert!(error.contains(part) || *part == "collapse", "{error}");
            }
        }
    }
}

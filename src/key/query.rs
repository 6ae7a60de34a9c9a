//! Which part of a query distinguishes responses?

use std::borrow::Cow;

/// Parameters that advertising and mailing tools append, and that handlers do not read.
const TRACKING: &[&str] = &[
    "utm_*",
    "gclid",
    "gclsrc",
    "dclid",
    "gbraid",
    "wbraid",
    "fbclid",
    "msclkid",
    "mc_cid",
    "mc_eid",
    "yclid",
    "ttclid",
    "twclid",
    "li_fat_id",
    "igshid",
    "igsh",
    "_ga",
    "_gl",
    "_hsenc",
    "_hsmi",
    "vero_id",
    "wickedid",
    "oly_anon_id",
    "oly_enc_id",
    "s_cid",
    "epik",
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueryRules {
    only: Option<Vec<String>>,
    without: Vec<String>,
    without_tracking: bool,
    sorted: bool,
}

impl QueryRules {
    pub(crate) fn only(&mut self, names: impl IntoIterator<Item = impl Into<String>>) {
        self.only = Some(names.into_iter().map(Into::into).collect());
    }

    pub(crate) fn without(&mut self, names: impl IntoIterator<Item = impl Into<String>>) {
        self.without.extend(names.into_iter().map(Into::into));
    }

    pub(crate) fn without_tracking(&mut self) {
        self.without_tracking = true;
    }

    pub(crate) fn sorted(&mut self) {
        self.sorted = true;
    }

    /// The path, and the part of the query that the rules keep. Without rules, the target exactly as it was sent.
    pub(crate) fn apply<'a>(&self, path_and_query: &'a str) -> Cow<'a, str> {
        let Some((path, query)) = path_and_query.split_once('?') else {
            return path_and_query.into();
        };
        if *self == Self::default() {
            return path_and_query.into();
        }
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        // some parsers also end a pair at a semicolon, and find other names in this pair
        let keeps = |(name, pair): &(Cow<'_, str>, &str)| pair.contains(';') || self.keeps(name);
        let mut kept: Vec<_> = pairs.map(|pair| (name_of(pair), pair)).filter(keeps).collect();
        if self.sorted {
            // a stable sort keeps the order of the values of one name, which handlers can see
            kept.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        if kept.is_empty() {
            return path.into();
        }
        let pairs: Vec<_> = kept.into_iter().map(|(_, pair)| pair).collect();
        format!("{path}?{}", pairs.join("&")).into()
    }

    fn keeps(&self, name: &str) -> bool {
        let listed = |names: &[String]| names.iter().any(|listed| listed == name);
        self.only.as_deref().is_none_or(listed)
            && !listed(&self.without)
            && !(self.without_tracking && TRACKING.iter().any(|listed| matches(listed, name)))
    }
}

/// A parameter's name as a handler sees it: `p%61ge` is `page`. If the rules compared the raw name, a request could
/// hide a parameter from the list, and its response would be stored under the target without the parameter.
fn name_of(pair: &str) -> Cow<'_, str> {
    form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name).unwrap_or_default()
}

/// Whether `name` is the listed name. A listed name that ends in `*` matches all names that begin with it.
pub(crate) fn matches(listed: &str, name: &str) -> bool {
    match listed.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => listed == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(set: impl Fn(&mut QueryRules)) -> QueryRules {
        let mut rules = QueryRules::default();
        set(&mut rules);
        rules
    }

    #[test]
    fn without_rules_the_query_is_unchanged() {
        for target in ["/", "/?", "/?&&", "/?b=1&a=2&b=0", "/a%20b?x=%00", "/?utm_source=x"] {
            assert_eq!(QueryRules::default().apply(target), target);
        }
    }

    #[test]
    fn only_listed_names_are_kept_in_any_encoding() {
        let rules = rules(|r| r.only(["page", "q r"]));
        assert_eq!(rules.apply("/l?x=1&page=2&utm_source=y"), "/l?page=2");
        assert_eq!(rules.apply("/l?p%61ge=2"), "/l?p%61ge=2");
        assert_eq!(rules.apply("/l?q+r=1&q%20r=2&pages=3&Page=4"), "/l?q+r=1&q%20r=2");
        assert_eq!(rules.apply("/l?x=1"), "/l");
    }

    #[test]
    fn tracking_and_named_parameters_are_dropped() {
        let rules = rules(|r| {
            r.without_tracking();
            r.without(["session"]);
        });
        assert_eq!(
            rules.apply("/?utm_source=a&gclid=b&a=1&fbclid&session=s&gclids=2"),
            "/?a=1&gclids=2"
        );
        assert_eq!(rules.apply("/?utm%5Fsource=a"), "/");
    }

    #[test]
    fn a_pair_with_a_semicolon_is_never_dropped() {
        let tracking = rules(QueryRules::without_tracking);
        let only = rules(|r| r.only(["page"]));
        let without = rules(|r| r.without(["session"]));
        for rules in [tracking, only, without] {
            for target in
                ["/?utm_source=x;page=2", "/?session=1;page=2", "/?page=1&gclid;q", "/?x;"]
            {
                assert_eq!(rules.apply(target), target);
            }
        }
    }

    #[test]
    fn sorting_by_name_keeps_the_order_of_values() {
        let rules = rules(QueryRules::sorted);
        assert_eq!(rules.apply("/?b=2&a=9&b=1&%61=0"), "/?a=9&%61=0&b=2&b=1");
    }

    #[test]
    fn invalid_escapes_match_no_listed_name() {
        let rules = rules(|r| r.only(["a"]));
        assert_eq!(rules.apply("/?%=1&%zz=2&a%=3&a=%ff&=5&&&a"), "/?a=%ff&a");
    }
}

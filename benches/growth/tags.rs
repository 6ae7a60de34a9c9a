//! What do the tags of an entry cost?

use std::sync::Arc;

use tower_mysql_cache::CacheLayer;

use super::Run;
use super::common::{body, cached, ok};
use super::fill;
use super::load::{Callers, Case, Figures, Pages, ratio, rounds, table, target};

const COUNTS: [usize; 4] = [0, 10, 100, 1_000];
/// Rows of the log that are newer than the entries.
const NEWER: usize = 1_000;

pub(crate) fn measure(run: &Run) {
    println!("\n## Entries with many tags\n");
    println!(
        "Each page has 1 KiB. *Quiet*: no row of the log is newer than the page. *{NEWER} rows*: so many rows are newer, and \
         name other tags."
    );
    for newer in [0, NEWER] {
        let store = run.store(&format!("growth_tags_{newer}"), &format!("growth_tags_log_{newer}"));
        let layer = CacheLayer::new(store).prefix("growth");
        let cases = COUNTS.map(|count| {
            let tags = (0..count).map(|n| &*String::leak(format!("tag:{n}")));
            let layer = layer.clone().with_policy(fill::PAGE.tags(Vec::leak(tags.collect())));
            let (service, uri) =
                (cached(&layer, body(1 << 10)), format!("http://growth.example/tags/{count}"));
            fill::store_page(run, &layer, &service, &uri);
            Case { name: format!("{count} tags"), service, pages: Pages::One(Arc::from(uri)) }
        });
        if newer > 0 {
            let others = (0..newer).map(|n| format!("other:{n}"));
            ok(run.runtime.block_on(layer.handle().invalidate_tags(others)));
        }
        run.rest();
        for count in [1, 64] {
            let all = rounds(run, &cases, Callers { count, every: None });
            let log = if newer == 0 { "quiet".to_owned() } else { format!("{newer} rows") };
            table(&format!("{log}, {count} callers"), &cases, &all);
            let last = COUNTS.len() - 1;
            target(
                &format!("1,000 tags, {log}, {count} callers, p50 / none"),
                ratio(&all, last, |f| f.median),
                1.3,
            );
            target(
                &format!("1,000 tags, {log}, {count} callers, CPU / none"),
                ratio(&all, last, Figures::cpu),
                1.3,
            );
        }
    }
}

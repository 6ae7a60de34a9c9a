//! A task that changes rows and says so to the cache, in transactions of random length and with random ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use tower::ServiceExt;
use tower_mysql_cache::CacheHandle;
use tower_mysql_cache::invalidation::Invalidation;

use crate::board::{Count, ITEMS};
use crate::chance::Chance;
use crate::process::{PAGE, Process, Service, parse, raise, tag};

/// Items from here on are told to the cache by a trigger of the table's own.
pub(crate) const TRIGGERED: usize = ITEMS - 20;

/// Items that are changed more often than others: three pages of them.
const HOT: usize = 3 * PAGE;

pub(crate) struct Writer {
    process: Arc<Process>,
    handle: CacheHandle,
    /// That of the other prefix.
    other: CacheHandle,
    /// The application behind the bounded front: it gets the unsafe requests.
    writes: Service,
    /// The handle is that of the bounded front.
    in_front: bool,
    url: String,
    /// Its place on the board.
    place: usize,
    random: Chance,
    connection: Option<MySqlConnection>,
}

/// How a change is told to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tags,
    Soft,
    Uris,
    Everything,
    /// By plain SQL, of which no process knows.
    Plain,
    /// Not in the transaction, but when that has been committed.
    Afterwards,
    /// By the table's own trigger.
    Trigger,
    /// By plain SQL, in the handler of a request through the bounded front.
    Request,
}

impl Writer {
    pub(crate) fn new(
        process: Arc<Process>,
        (handle, other, writes): (CacheHandle, CacheHandle, Service),
        in_front: bool,
        url: String,
        place: usize,
        random: Chance,
    ) -> Self {
        Self { process, handle, other, writes, in_front, url, place, random, connection: None }
    }

    pub(crate) async fn run(mut self) {
        while !self.process.stopped() {
            // an error is one of the connection: what became of the transaction is not known, and nothing
            // is promised of it
            if self.change().await.is_err() {
                self.connection = None;
                self.process.board.count(self.process.number, Count::Unknown, 1);
                // a writer without a database does not spin
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // the load: a writer changes something some 30 times a second
            let pause = 10 + self.random.below(50);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn pause(&mut self) {
        let ms = match self.random.below(100) {
            0 => 1_000 + self.random.below(2_500), // beyond the grace of a gap
            1..40 => self.random.below(20),
            _ => 0,
        };
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    }

    async fn change(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => MySqlConnection::connect(&self.url).await?,
        };
        let way = match self.random.below(20) {
            0..8 => Way::Tags,
            8..10 => Way::Soft,
            10..13 => Way::Uris,
            13..15 => Way::Plain,
            15 => Way::Trigger,
            16..18 => Way::Request,
            18 => Way::Afterwards,
            _ if self.random.one_in(5) => Way::Everything,
            _ => Way::Tags,
        };
        let (first, limit) = match way {
            Way::Trigger => (TRIGGERED, ITEMS - TRIGGERED),
            _ => (0, TRIGGERED),
        };
        // in one order, so that the application's own rows do not deadlock
        let count = 1 + self.random.below(3);
        // some are changed more often: transactions that name the same meet
        let limit = if self.random.one_in(3) { HOT.min(limit) } else { limit };
        let mut items: Vec<usize> =
            (0..count).map(|_| first + self.random.below(limit as u64) as usize).collect();
        items.sort_unstable();
        items.dedup();
        if way == Way::Request {
            self.connection = Some(connection);
            return self.request(&items).await;
        }
        let said_first = self.random.one_in(2);
        let mut written = Vec::new();
        let mut tx = connection.begin().await?;
        if said_first {
            self.say(&mut tx, way, &items).await?;
            self.pause().await;
        }
        for &item in &items {
            written.push((item, raise(&mut tx, item).await?));
            self.pause().await;
        }
        if !said_first {
            self.say(&mut tx, way, &items).await?;
            self.pause().await;
        }
        let board = &self.process.board;
        match self.random.below(40) {
            0..4 => {
                tx.rollback().await?;
                board.count(self.process.number, Count::RolledBack, 1);
            }
            4 => {
                // the connection goes without a word
                drop(tx);
                drop(connection);
                board.count(self.process.number, Count::Killed, 1);
                return Ok(());
            }
            5 => {
                let id: u64 =
                    sqlx::query_scalar("SELECT CONNECTION_ID()").fetch_one(&mut *tx).await?;
                let mut other = MySqlConnection::connect(&self.url).await?;
                let kill = sqlx::raw_sql(AssertSqlSafe(format!("KILL CONNECTION {id}")));
                kill.execute(&mut other).await?;
                board.count(self.process.number, Count::Killed, 1);
                // it may be quicker than its end
                tx.commit().await?;
                self.committed(way, &written).await?;
                return Ok(());
            }
            _ => {
                tx.commit().await?;
                self.committed(way, &written).await?;
            }
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// Sends a write through the bounded front. What it answers, whatever the status, has been committed.
    async fn request(
        &mut self,
        items: &[usize],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let items: Vec<String> = items.iter().map(usize::to_string).collect();
        let request = Request::post(format!("http://h/w/{}", items.join("-"))).body(())?;
        let response = self.writes.clone().oneshot(request).await?;
        let body = response.into_body().collect().await.map_err(|_| "no body")?.to_bytes();
        let written = parse(std::str::from_utf8(&body)?);
        if written.is_empty() {
            return Err("nothing is known of its transaction".into());
        }
        self.committed(Way::Request, &written).await
    }

    /// Tells the cache, in the transaction.
    async fn say(
        &mut self,
        tx: &mut MySqlConnection,
        way: Way,
        items: &[usize],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match way {
            Way::Tags => {
                let tags = items.iter().map(|item| tag(*item));
                self.handle.invalidate_tags_on(tx, tags.collect::<Vec<_>>()).await?;
            }
            Way::Soft => {
                let wanted = Invalidation::tags(items.iter().map(|item| tag(*item))).soft();
                self.handle.invalidate_on(tx, wanted.reason("softly")).await?;
            }
            Way::Uris => {
                for item in items {
                    for uri in [format!("http://h/i/{item}"), format!("/g/{}", item / PAGE)] {
                        self.handle.invalidate_uri_on(tx, &uri).await?;
                        self.other.invalidate_uri_on(tx, &uri).await?;
                    }
                }
            }
            Way::Everything => {
                self.handle.invalidate_all_on(tx).await?;
                self.other.invalidate_all_on(tx).await?;
            }
            Way::Plain => {
                for item in items {
                    let insert = "INSERT INTO cache_invalidations (tag) VALUES (?)";
                    sqlx::query(insert).bind(tag(*item)).execute(&mut *tx).await?;
                }
            }
            Way::Afterwards | Way::Trigger | Way::Request => {}
        }
        Ok(())
    }

    /// The commit has returned: from now on, no client may get older data.
    async fn committed(
        &self,
        way: Way,
        written: &[(usize, u64)],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let process = &self.process;
        if way == Way::Afterwards {
            // from the moment at which this has returned
            self.handle.invalidate_tags(written.iter().map(|(item, _)| tag(*item))).await?;
        }
        for &(item, version) in written {
            let known = self.in_front && !matches!(way, Way::Plain | Way::Trigger);
            if known || way == Way::Request {
                process.own[item].fetch_max(version, Ordering::SeqCst);
            }
            process.board.publish(item, self.place, version, way == Way::Soft);
        }
        process.board.count(process.number, Count::Commits, 1);
        Ok(())
    }
}

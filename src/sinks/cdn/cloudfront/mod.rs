//! Amazon CloudFront: paths and cache tags, invalidated in batches that are watched until they are
//! completed.
//!
//! In: a [`Batch`] of purges. Out: a [`Report`] once CloudFront says that every edge has forgotten
//! them, or a [`Failure`] after which the same batch is sent again and goes on where it was. Each
//! lane has one invalidation in progress at a time, so that the lanes of a sink together keep to
//! what a distribution may have in progress.

mod budget;
mod error;
mod items;
mod ledger;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_cloudfront::Client;
use aws_sdk_cloudfront::config::{Credentials, Region, SharedCredentialsProvider};
use aws_sdk_cloudfront::types::{InvalidationBatch, Paths};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::info;

pub use budget::{Charges, MonthCharges};
pub use error::statement;

use super::pacer::Pacer;
use super::work::fingerprint;
use super::{REQUEST_TIMEOUT, rejected};
use crate::action::Batch;
use crate::failpoint::Place;
use crate::sinks::{CONNECT_TIMEOUT, Failure, Rejected, Report};
use error::{Trouble, judge};
use items::{EVERYTHING, Item, portions};
use ledger::{Ledger, Pending};

/// The most requests a second, where it is not configured: CloudFront throttles after six to ten
/// quick ones.
const REQUESTS_PER_SECOND: u32 = 1;

/// The first wait before one looks whether an invalidation is completed; the next ones are longer.
const LOOK_FIRST: Duration = Duration::from_millis(500);

/// The longest.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// How long one attempt watches an invalidation, which takes a minute or two. The next attempt goes
/// on watching.
const WATCH_MAX: Duration = Duration::from_secs(600);

/// How often a new reference is tried where one was used before.
const REFERENCES_MAX: usize = 3;

/// The most paths and tags in one invalidation, of which two lanes have one in progress each.
const ITEMS_MAX: usize = 1400;

/// The same for three lanes.
const ITEMS_WITH_REPEATS_MAX: usize = 990;

/// The region of a service that has none.
const REGION: &str = "us-east-1";

/// A distribution, as it was configured.
#[derive(Clone, Debug)]
pub struct CloudFrontOptions {
    /// The sink's name.
    pub name: String,
    /// The distribution's ID.
    pub distribution_id: String,
    /// The API's base, where it is not Amazon's.
    pub endpoint: Option<String>,
    /// The most requests a second, all lanes together; none: one.
    pub max_requests_per_second: Option<u32>,
    /// How many paths and tags a month may be charged.
    pub paths_per_month: Option<u64>,
    /// Where the month's count is kept.
    pub count_dir: Option<PathBuf>,
    /// Where invalidations under way are kept: by one process.
    pub state_dir: Option<PathBuf>,
    /// Whether purges are done again later, in a lane of their own.
    pub repeats: bool,
    /// An access key's ID and its secret; none: those of Amazon's credential chain.
    pub credentials: Option<(String, SecretString)>,
}

/// A distribution, which the lanes of its sink share.
#[derive(Debug)]
pub struct CloudFrontSink {
    options: CloudFrontOptions,
    /// Made when it is first needed: the credential chain asks around.
    client: OnceCell<Client>,
    pacer: Pacer,
    charges: Arc<Charges>,
}

/// Which lane of a sink: each keeps a file of its own, and its share of the wildcards in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What runs at once.
    Prompt,
    /// What runs now and then.
    Paced,
    /// What is done again.
    Repeats,
    /// What is done once more after what caches delete again. It has no share of its own: what the
    /// distribution refuses meanwhile is tried again.
    OnceMore,
}

impl Part {
    fn file_name(self, sink: &str) -> String {
        let part = match self {
            Part::Prompt => "prompt",
            Part::Paced => "paced",
            Part::Repeats => "repeats",
            Part::OnceMore => "once-more",
        };
        format!("cloudfront-{sink}.{part}.json")
    }

    /// How many wildcards it may have in progress, and how many items. A distribution may have 15
    /// and 3,000, which its lanes share.
    fn most(self, with_repeats: bool) -> (usize, usize) {
        match (self, with_repeats) {
            (Part::Prompt, false) => (10, ITEMS_MAX),
            (Part::Paced, false) => (5, ITEMS_MAX),
            (Part::Prompt, true) => (7, ITEMS_WITH_REPEATS_MAX),
            (Part::Paced, true) => (3, ITEMS_WITH_REPEATS_MAX),
            (Part::Repeats | Part::OnceMore, _) => (5, ITEMS_WITH_REPEATS_MAX),
        }
    }
}

impl CloudFrontSink {
    /// A sink that has sent nothing yet.
    pub fn new(options: CloudFrontOptions) -> Self {
        let per_second = options.max_requests_per_second.unwrap_or(REQUESTS_PER_SECOND);
        let CloudFrontOptions { name, count_dir, paths_per_month, .. } = &options;
        let charges = Arc::new(Charges::new(count_dir.as_deref(), name, *paths_per_month));
        CloudFrontSink {
            client: OnceCell::new(),
            pacer: Pacer::new(Some(per_second)),
            charges,
            options,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// How many items go into one request, where that is fewer than the pipeline sends at once.
    pub fn request_items(&self) -> Option<usize> {
        self.options.repeats.then_some(ITEMS_WITH_REPEATS_MAX)
    }

    /// The distribution's ID.
    pub fn distribution_id(&self) -> &str {
        &self.options.distribution_id
    }

    /// The distribution.
    pub fn target(&self) -> String {
        format!("cloudfront distribution {}", self.options.distribution_id)
    }

    /// What it is charged.
    pub fn charges(&self) -> &Arc<Charges> {
        &self.charges
    }

    async fn client(&self) -> &Client {
        self.client.get_or_init(|| Box::pin(client(&self.options))).await
    }

    /// Asks for an invalidation; answers with its ID and whether it is completed.
    async fn create(&self, pending: &Pending) -> Result<(String, bool), Trouble> {
        let built = Paths::builder()
            .quantity(i32::try_from(pending.items.len()).unwrap_or(i32::MAX))
            .set_items(Some(pending.items.clone()))
            .build()
            .and_then(|paths| {
                InvalidationBatch::builder()
                    .paths(paths)
                    .caller_reference(&pending.reference)
                    .build()
            });
        let batch = built.map_err(|error| unexpected(error.to_string()))?;
        let client = self.client().await;
        self.pacer.turn().await;
        let request = client
            .create_invalidation()
            .distribution_id(&self.options.distribution_id)
            .invalidation_batch(batch);
        let created = Box::pin(request.send()).await;
        let created = created.map_err(|error| judge(&error, &self.options.distribution_id))?;
        match created.invalidation() {
            Some(made) => Ok((made.id().to_owned(), is_completed(made.status()))),
            None => Err(unexpected("an answer without an invalidation".to_owned())),
        }
    }

    /// Whether an invalidation is completed.
    async fn look(&self, id: &str) -> Result<bool, Trouble> {
        let client = self.client().await;
        self.pacer.turn().await;
        let request =
            client.get_invalidation().distribution_id(&self.options.distribution_id).id(id);
        let found = Box::pin(request.send()).await;
        let found = found.map_err(|error| judge(&error, &self.options.distribution_id))?;
        Ok(found.invalidation().is_some_and(|found| is_completed(found.status())))
    }

    /// The invalidations that `batch` would be, with what CloudFront would charge for them, and the
    /// reasons why parts of it would be none.
    pub fn preview(&self, batch: &Batch, part: Part) -> Vec<String> {
        let (portions, rejected) = portions(batch, part.most(self.options.repeats));
        let request = |portion: &Vec<Item>| {
            let (id, items) = (&self.options.distribution_id, portion.len());
            format!("CreateInvalidation in {id}: {items} paths and tags charged")
        };
        let given_up = rejected.iter().map(|rejected| format!("nothing: {}", rejected.reason));
        portions.iter().map(request).chain(given_up).collect()
    }

    /// Tries the credentials by asking for an invalidation that does not exist. That asks for
    /// `cloudfront:GetInvalidation`; whether invalidations may be created is not tried.
    ///
    /// # Errors
    /// What it fails with.
    pub async fn check(&self) -> Result<(), Failure> {
        match self.look("I0WALPURGECHECK").await {
            Ok(_) | Err(Trouble::Unknown) => Ok(()),
            Err(Trouble::Failed(failure)) => Err(failure),
            Err(Trouble::BadItems(_) | Trouble::UsedReference) => Ok(()),
        }
    }
}

fn is_completed(status: &str) -> bool {
    // The documentation says `Completed`; others that speak the protocol say `COMPLETED`.
    status.eq_ignore_ascii_case("completed")
}

fn unexpected(message: String) -> Trouble {
    Trouble::Failed(Failure::Outage { message: format!("cloudfront: {message}") })
}

async fn client(options: &CloudFrontOptions) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(REQUEST_TIMEOUT)
        .operation_timeout(REQUEST_TIMEOUT * 2)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .timeout_config(timeouts)
        // The pipeline tries again.
        .retry_config(RetryConfig::disabled());
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some((id, secret)) = &options.credentials {
        let keys = Credentials::new(id, secret.expose_secret(), None, None, "walpurge");
        loader = loader.credentials_provider(SharedCredentialsProvider::new(keys));
    }
    Client::new(&loader.load().await)
}

/// Sends one batch of purges at a time.
#[derive(Debug)]
pub struct CloudFrontLane {
    sink: Arc<CloudFrontSink>,
    part: Part,
    ledger: Ledger,
    /// What an earlier run has left under way.
    left: Option<Pending>,
    /// The batch that was not finished when it was sent last.
    course: Option<Course>,
}

/// A batch under way.
#[derive(Debug)]
struct Course {
    batch: u64,
    portions: VecDeque<Vec<Item>>,
    running: Option<(Pending, Vec<Item>)>,
    rejected: Vec<Rejected>,
    requested: u64,
}

impl CloudFrontLane {
    /// A lane of the sink. Reads what an earlier run has left.
    pub fn new(sink: Arc<CloudFrontSink>, part: Part) -> Self {
        let CloudFrontOptions { name, distribution_id, state_dir, .. } = &sink.options;
        let (ledger, left) =
            Ledger::open(state_dir.as_deref(), &part.file_name(name), distribution_id);
        CloudFrontLane { sink, part, ledger, left, course: None }
    }

    /// What its sink is charged.
    pub fn charges(&self) -> Arc<Charges> {
        Arc::clone(&self.sink.charges)
    }

    /// Does all of `batch`, after what an earlier run has left.
    ///
    /// Dropping the future leaves an invalidation in progress, which goes on by itself.
    ///
    /// # Errors
    /// A [`Failure`] says that the batch is not finished; the caller sends all of it again, after a
    /// wait of its own.
    pub async fn send(&mut self, batch: &Batch) -> Result<Report, Failure> {
        if let Some(mut left) = self.left.take() {
            let outcome = Box::pin(self.drive(&mut left)).await;
            if let Err(Trouble::Failed(failure)) = outcome {
                self.left = Some(left);
                return Err(failure);
            }
            self.ledger.clear();
        }
        let kept = self.course.take().filter(|course| course.batch == fingerprint(batch));
        let mut course =
            kept.unwrap_or_else(|| Course::new(batch, self.part.most(self.sink.options.repeats)));
        match Box::pin(self.follow(&mut course)).await {
            Ok(()) => {
                let Course { rejected, requested, .. } = course;
                Ok(Report { requested, rejected, ..Report::default() })
            }
            Err(failure) => {
                self.course = Some(course);
                Err(failure)
            }
        }
    }

    /// Portion by portion.
    async fn follow(&mut self, course: &mut Course) -> Result<(), Failure> {
        loop {
            let (mut pending, portion) = match course.running.take() {
                Some(running) => running,
                None => {
                    let Some(portion) = course.next(&self.sink) else { return Ok(()) };
                    let texts = portion.iter().map(|item| item.text.clone()).collect();
                    (self.ledger.begin(texts), portion)
                }
            };
            match self.drive(&mut pending).await {
                Ok(()) => {
                    self.ledger.clear();
                    course.requested += portion.len() as u64;
                }
                Err(Trouble::BadItems(reason)) => {
                    self.ledger.clear();
                    course.split(portion, &reason);
                }
                Err(Trouble::Failed(failure)) => {
                    course.running = Some((pending, portion));
                    return Err(failure);
                }
                Err(Trouble::UsedReference | Trouble::Unknown) => {
                    // Neither is done: it is asked for as a new one.
                    self.ledger.clear();
                    course.portions.push_front(portion);
                    let message = "cloudfront: an invalidation is not known any more".to_owned();
                    return Err(Failure::Outage { message });
                }
            }
        }
    }

    /// Asks for an invalidation, if that is not done, and watches it until it is completed.
    async fn drive(&mut self, pending: &mut Pending) -> Result<(), Trouble> {
        let mut wait = LOOK_FIRST;
        let started = Instant::now();
        for _ in 0..REFERENCES_MAX {
            if pending.id.is_some() {
                break;
            }
            Place::PurgeNoted.pass();
            match self.sink.create(pending).await {
                Ok((id, is_completed)) => {
                    Place::PurgeAccepted.pass();
                    let items = pending.items.len() as u64;
                    self.sink.charges.add(items);
                    info!(sink = self.sink.name(), items, invalidation = id, "invalidating");
                    pending.id = Some(id);
                    self.ledger.write(pending);
                    if is_completed {
                        return Ok(());
                    }
                }
                // The one that has it is about other items, and was never ours to count on.
                Err(Trouble::UsedReference) => {
                    *pending = self.ledger.begin(std::mem::take(&mut pending.items));
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let Some(id) = &pending.id else { return Err(Trouble::UsedReference) };
        while started.elapsed() < WATCH_MAX {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK_MAX);
            if self.sink.look(id).await? {
                return Ok(());
            }
        }
        Err(unexpected(format!("invalidation {id} is still in progress")))
    }
}

impl Course {
    fn new(batch: &Batch, most: (usize, usize)) -> Self {
        let (portions, rejected) = portions(batch, most);
        Course {
            batch: fingerprint(batch),
            portions: portions.into(),
            running: None,
            rejected,
            requested: 0,
        }
    }

    /// What to ask for next: everything that is left in one, where the budget ends.
    fn next(&mut self, sink: &CloudFrontSink) -> Option<Vec<Item>> {
        let portion = self.portions.pop_front()?;
        if sink.charges.allow(sink.name(), portion.len() as u64) || portion.len() == 1 {
            return Some(portion);
        }
        let rest = std::mem::take(&mut self.portions).into_iter().flatten();
        let actions = portion.into_iter().chain(rest).flat_map(|item| item.actions).collect();
        Some(vec![Item { text: EVERYTHING.to_owned(), actions }])
    }

    /// Some item of a portion is none: each half is tried alone, until it is known which.
    fn split(&mut self, mut portion: Vec<Item>, reason: &str) {
        if portion.len() < 2 {
            for index in portion.into_iter().flat_map(|item| item.actions) {
                self.rejected.push(rejected(index, reason));
            }
            return self.rejected.sort_by_key(|rejected| rejected.index);
        }
        let half = portion.split_off(portion.len() / 2);
        self.portions.push_front(half);
        self.portions.push_front(portion);
    }
}

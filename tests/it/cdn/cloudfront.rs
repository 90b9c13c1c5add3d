//! `[cloudfront.NAME]`.

use std::path::Path;
use std::time::Duration;

use testkit::TestDir;
use testkit::cdn::{CloudFront, Fault};
use walpurge::sinks::cdn::cloudfront::{CloudFrontLane, CloudFrontSink, Part};

use super::*;

/// A lane with keys of its own; `more` are more settings.
#[track_caller]
fn lane_with(cloudfront: &CloudFront, more: &str, state_dir: Option<&Path>) -> CloudFrontLane {
    lane_that_keeps(cloudfront, more, Kept::all(state_dir))
}

#[track_caller]
fn lane_that_keeps(cloudfront: &CloudFront, more: &str, kept: Kept<'_>) -> CloudFrontLane {
    let text = format!(
        "[postgres]\nurl = 'postgres://h/d'\n[cloudfront.site]\n{}{more}\n\
         [[rule]]\ntable = 's.t'\npurge_keys = ['x']",
        cloudfront.settings()
    );
    let loaded = parse("t", &text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let CdnParts::CloudFront(mut options) = loaded.config.cdn[0].parts(kept).unwrap() else {
        panic!("another kind")
    };
    options.credentials = Some(("AKIDEXAMPLE".to_owned(), "not-a-secret".to_owned().into()));
    CloudFrontLane::new(Arc::new(CloudFrontSink::new(options)), Part::Prompt)
}

#[track_caller]
fn lane(cloudfront: &CloudFront) -> CloudFrontLane {
    lane_with(cloudfront, "", None)
}

#[tokio::test]
async fn paths_and_tags_are_invalidated_and_watched_until_they_are_completed() {
    let cloudfront = CloudFront::start();
    cloudfront.allow(|rules| rules.looks = 2);
    let mut lane = lane(&cloudfront);
    let all = batch([
        (Verb::PurgePath, "/a b&<c>"),
        (Verb::PurgePath, "/p/*"),
        (Verb::PurgePath, "/p/1"),
        (Verb::PurgeKey, "p:1&<x>"),
        (Verb::PurgeKey, "two words"),
    ]);
    let report = lane.send(&all).await.unwrap();
    assert_eq!((rejected(&report), report.requested), (vec![4], 3));
    assert_eq!(cloudfront.invalidations(), [["/p/*", "/a%20b&%3Cc%3E", "#p:1&<x>"]]);
    assert_eq!(cloudfront.server().requests().len(), 3, "one to make it, two to look");
}

#[tokio::test]
async fn everything_is_one_wildcard() {
    let cloudfront = CloudFront::start();
    let all = batch([(Verb::PurgePath, "/a"), (Verb::PurgeAll, "*")]);
    lane(&cloudfront).send(&all).await.unwrap();
    assert_eq!(cloudfront.invalidations(), [["/*"]]);
}

#[tokio::test]
async fn what_is_in_progress_keeps_to_the_limits() {
    let cloudfront = CloudFront::start();
    cloudfront.allow(|rules| rules.looks = 1);
    let all: Vec<String> =
        (10..50).map(|at| format!("/{at}/*")).chain((0..900).map(|at| format!("/x{at}"))).collect();
    lane(&cloudfront).send(&paths(all.iter().map(String::as_str))).await.unwrap();
    assert_eq!(cloudfront.charged(), 940);
    let (items, wildcards) = cloudfront.most_in_progress();
    assert!(items <= 3000 && wildcards <= 15, "{items} {wildcards}");
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_charged_once() {
    let cloudfront = CloudFront::start();
    let mut lane = lane(&cloudfront);
    for fault in [Fault::CutReply, Fault::Refuse, Fault::Status(503)] {
        cloudfront.server().fail([fault]);
        let message = outage(lane.send(&paths(["/secret-path"])).await);
        assert!(!message.contains("secret-path"), "{message}");
    }
    lane.send(&paths(["/secret-path"])).await.unwrap();
    assert_eq!(cloudfront.charged(), 1);
    // A deliberate repeat purges again.
    lane.send(&paths(["/secret-path"])).await.unwrap();
    assert_eq!(cloudfront.charged(), 2);
}

#[tokio::test]
async fn an_outage_while_it_is_watched_makes_no_second_one() {
    let cloudfront = CloudFront::start();
    cloudfront.allow(|rules| rules.looks = 2);
    let mut lane = lane(&cloudfront);
    let all = paths(["/a"]);
    lane.send(&paths(["/first"])).await.unwrap();
    cloudfront.server().forget();
    // The first request makes it, the second looks.
    cloudfront.server().fail([Fault::Slow(Duration::ZERO), Fault::Status(500)]);
    let outcome = lane.send(&all).await;
    assert_eq!(cloudfront.server().count(), 2);
    outage(outcome);
    lane.send(&all).await.unwrap();
    assert_eq!(cloudfront.invalidations(), [["/first"], ["/a"]]);
}

#[tokio::test]
async fn a_restart_repeats_what_was_under_way_literally_and_then_does_what_is_new() {
    let cloudfront = CloudFront::start();
    let dir = TestDir::new("cloudfront");
    let mut first = lane_with(&cloudfront, "", Some(&dir.join(".")));
    cloudfront.server().fail([Fault::CutReply]);
    outage(first.send(&paths(["/a"])).await);
    drop(first);
    let mut second = lane_with(&cloudfront, "", Some(&dir.join(".")));
    second.send(&paths(["/a"])).await.unwrap();
    // The first is not charged twice, and the same items once more are another one: they may
    // stand for a younger transaction.
    assert_eq!(cloudfront.invalidations(), [["/a"], ["/a"]]);
    let requests = cloudfront.server().requests();
    let asked: Vec<String> = requests.iter().map(|request| request.text()).collect();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0], asked[1], "literally");
    assert_ne!(asked[1], asked[2], "another reference");
    drop(second);
    let mut third = lane_with(&cloudfront, "", Some(&dir.join(".")));
    third.send(&paths(["/b"])).await.unwrap();
    assert_eq!(cloudfront.charged(), 3, "what is completed is forgotten");
}

#[tokio::test]
async fn a_reference_that_was_used_is_replaced_and_never_counts_as_done() {
    let cloudfront = CloudFront::start();
    cloudfront.allow(|rules| rules.reference_is_used = true);
    lane(&cloudfront).send(&paths(["/a"])).await.unwrap();
    assert_eq!(cloudfront.invalidations(), [["/a"]]);
}

#[tokio::test]
async fn an_item_that_is_refused_is_found_and_the_rest_is_not_lost() {
    let cloudfront = CloudFront::start();
    cloudfront.allow(|rules| rules.bad_paths = vec!["/3".into(), "/7".into()]);
    let all: Vec<String> = (0..9).map(|at| format!("/{at}")).collect();
    let all = paths(all.iter().map(String::as_str));
    let report = lane(&cloudfront).send(&all).await.unwrap();
    assert_eq!(rejected(&report), [3, 7]);
    assert_eq!(cloudfront.charged(), 7);
}

#[tokio::test]
async fn errors_that_mend_themselves_are_outages_and_others_say_what_mends_them() {
    let cloudfront = CloudFront::start();
    let mut lane = lane(&cloudfront);
    for error in [
        ("TooManyInvalidationsInProgress", 400),
        ("Throttling", 400),
        ("ServiceUnavailable", 503),
        ("InternalError", 500),
    ] {
        cloudfront.allow(|rules| rules.error = Some(error));
        assert!(outage(lane.send(&paths(["/a"])).await).contains(error.0));
    }
    for (error, hint) in [
        (("AccessDenied", 403), "cloudfront:CreateInvalidation"),
        (("InvalidClientTokenId", 403), "cloudfront:CreateInvalidation"),
        (("NoSuchDistribution", 404), "distribution_id"),
    ] {
        cloudfront.allow(|rules| rules.error = Some(error));
        let (message, said) = refused(lane.send(&paths(["/a"])).await);
        assert!(message.contains(error.0) && said.contains(hint), "{message} {said}");
    }
    cloudfront.allow(|rules| rules.error = None);
    lane.send(&paths(["/a"])).await.unwrap();
    assert_eq!(cloudfront.charged(), 1);
}

#[tokio::test]
async fn past_the_months_budget_one_wildcard_covers_the_rest() {
    let cloudfront = CloudFront::start();
    let dir = TestDir::new("cloudfront");
    let lane = || lane_with(&cloudfront, "paths_per_month = 5", Some(&dir.join(".")));
    lane().send(&paths(["/1", "/2", "/3"])).await.unwrap();
    // The count outlives the process.
    let report = lane().send(&paths(["/4", "/5", "/6"])).await.unwrap();
    assert_eq!(report.rejected, []);
    assert_eq!(cloudfront.invalidations(), [vec!["/1", "/2", "/3"], vec!["/*"]]);
}

#[tokio::test]
async fn what_a_replay_is_charged_counts_for_the_daemon_that_runs_beside_it() {
    let cloudfront = CloudFront::start();
    let dir = TestDir::new("cloudfront");
    let kept = dir.join(".");
    let settings = "paths_per_month = 5";
    let mut daemon = lane_with(&cloudfront, settings, Some(&kept));
    daemon.send(&paths(["/1", "/2"])).await.unwrap();
    let mut replay = lane_that_keeps(&cloudfront, settings, Kept::charges(Some(&kept)));
    replay.send(&paths(["/3", "/4"])).await.unwrap();
    daemon.send(&paths(["/5", "/6"])).await.unwrap();
    let made = cloudfront.invalidations();
    assert_eq!(made, [vec!["/1", "/2"], vec!["/3", "/4"], vec!["/*"]]);
    for (lane, by_itself) in [(daemon, 3), (replay, 2)] {
        assert_eq!((lane.charges().take(), lane.charges().take()), (by_itself, 0));
    }
    let fresh = lane_that_keeps(&cloudfront, settings, Kept::charges(Some(&kept)));
    let month = fresh.charges().month();
    assert_eq!((month.charged, month.most), (5, Some(5)));
}

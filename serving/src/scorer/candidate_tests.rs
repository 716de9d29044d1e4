//! Tests of shadow and canary.

use std::sync::mpsc::{Receiver, sync_channel};

use super::tests::{publish, request, scorer, weights};
use super::*;
use crate::{CandidateCounts, CandidateRole, CandidateSlot, ShadowJob, Variant, run_shadow};

fn role(variant: Variant, share: &str) -> CandidateRole {
    CandidateRole {
        variant,
        share: share.parse().unwrap(),
    }
}

fn version(snapshot: &str, weights: Weights) -> Arc<Version> {
    Arc::new(Version::new(snapshot, weights).unwrap())
}

/// A scorer of a served version with the place of a candidate, and the queue of a shadow for one request.
fn place() -> (
    Arc<Published<Version>>,
    Arc<CandidateSlot>,
    Scorer,
    Receiver<ShadowJob>,
) {
    let published = Arc::new(Published::new());
    publish(&published, "served", weights(-2.0));
    let slot = Arc::new(CandidateSlot::new());
    let (to_shadow, jobs) = sync_channel(1);
    let scorer = scorer(&published).with_candidate(Arc::clone(&slot), Some(to_shadow));
    (published, slot, scorer, jobs)
}

fn of(user: &str) -> CheckedRequest {
    CheckedRequest {
        user_id: user.to_owned(),
        ..request(&["a", "b"])
    }
}

#[test]
fn a_canary_answers_the_same_users_of_its_share_each_time() {
    let (_, slot, mut scorer, _jobs) = place();
    let start = role(Variant::Canary, "30%");
    slot.start(start, version("canary", weights(-1.0)));
    let ids = scorer.ids;
    let mut n_canary = 0;
    for n in 0..60 {
        let user = format!("user-{n}");
        let is_in = start.share.contains(ids.id(IdKind::User, &user));
        for _ in 0..2 {
            let ranked = scorer.rank(&of(&user)).unwrap().checked(2).unwrap();
            let expected = match is_in {
                true => (Some(Variant::Canary), "canary"),
                false => (None, "served"),
            };
            assert_eq!((ranked.variant, &*ranked.snapshot), expected, "{user}");
            n_canary += u64::from(is_in);
        }
    }
    assert!((20..60).contains(&n_canary), "{n_canary}");
    assert_eq!(slot.counts().unwrap().scored, n_canary);
    slot.stop();
    let ranked = scorer.rank(&of("user-1")).unwrap();
    assert_eq!((ranked.variant, &*ranked.snapshot), (None, "served"));
    assert_eq!(slot.counts(), None);
    scorer.refresh();
    assert_eq!(slot.sweep(), 0, "nothing holds the version that was stopped");
}

#[test]
fn a_canary_whose_scores_are_not_finite_is_suspended_and_the_served_version_answers() {
    let (_, slot, mut scorer, _jobs) = place();
    slot.start(role(Variant::Canary, "100%"), version("bad", weights(f32::NAN)));
    for _ in 0..3 {
        let ranked = scorer.rank(&of("u")).unwrap().checked(2).unwrap();
        assert_eq!((ranked.variant, &*ranked.snapshot), (None, "served"));
        assert!(ranked.fallback.is_empty());
    }
    assert!(slot.is_suspended());
    let counts = slot.counts().unwrap();
    assert_eq!((counts.scored, counts.failed), (0, 1), "it is asked once");
    // The next one starts anew.
    slot.start(role(Variant::Canary, "100%"), version("good", weights(-1.0)));
    assert_eq!(&*scorer.rank(&of("u")).unwrap().snapshot, "good");
}

#[test]
fn a_shadow_scores_what_was_answered_and_what_it_cannot_take_is_dropped() {
    let (published, slot, mut worker, jobs) = place();
    let alone = worker.rank(&of("u")).unwrap();
    let start = |weights| slot.start(role(Variant::Shadow, "100%"), version("shadow", weights));
    start(weights(-1.0));
    for _ in 0..3 {
        let request = Arc::new(of("u"));
        assert_eq!(worker.rank(&request).unwrap(), alone, "a shadow changes no reply");
        worker.replied(&request);
    }
    let mut shadow = scorer(&published).with_candidate(Arc::clone(&slot), None);
    drop(worker);
    run_shadow(&jobs, &mut shadow);
    let expected = CandidateCounts {
        scored: 1,
        dropped: 2,
        failed: 0,
        same_first: 1,
    };
    assert_eq!(slot.counts(), Some(expected));

    let (_, slot, mut worker, jobs) = place();
    slot.start(role(Variant::Shadow, "100%"), version("bad", weights(f32::NAN)));
    let mut shadow = scorer(&published).with_candidate(Arc::clone(&slot), None);
    let request = Arc::new(of("u"));
    worker.rank(&request).unwrap();
    worker.replied(&request);
    drop(worker);
    run_shadow(&jobs, &mut shadow);
    assert_eq!(slot.counts().unwrap().failed, 1);
    assert!(!slot.is_suspended(), "no reply depends on a shadow");
}

//! A quarantine behind the tier.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(300), ..ProptestConfig::default() })]

    #[test]
    fn a_quarantine_behind_the_tier_excludes_what_one_process_excludes(
        config in config(),
        drafts in drafts(),
        (of_user, of_item) in (any::<bool>(), any::<bool>()),
    ) {
        // Excluded events move the tier's time: nothing else may depend on that here.
        let mut drafts = drafts;
        drafts.iter_mut().for_each(|draft| draft.delay = 0);
        let config = JoinConfig { label_policy: LabelPolicy::Wait, ..config };
        let mut log = log(&drafts);
        log.extend(end(&log));
        let name = |is_named: bool, name: &str| is_named.then(|| name.to_owned());
        let rule = QuarantineRule { user: name(of_user, "2"), item: name(of_item, "1"), ..QuarantineRule::default() };
        // The ids of the log are numbers; those of the rule are hashes.
        let ids = IdSpace::new(7);
        let hashed = |id: Id, kind: IdKind| ids.id(kind, &id.0.to_string());
        let rename = |recorded: &DecodedRecord| {
            let mut recorded = recorded.clone();
            match recorded.event.as_mut().unwrap() {
                Event::Impression(impression) => {
                    impression.user = hashed(impression.user, IdKind::User);
                    for shown in &mut impression.items {
                        shown.item = hashed(shown.item, IdKind::Item);
                    }
                }
                Event::Action(action) => rename_action(action, hashed),
                Event::Actions(actions) => actions.iter_mut().for_each(|action| rename_action(action, hashed)),
                _ => {}
            }
            recorded
        };
        let log: Vec<DecodedRecord> = log.iter().map(rename).collect();
        let records = in_order(&config, &log);
        if rule == QuarantineRule::default() {
            return Ok(());
        }
        let (wire, decoder) = wire(&config);
        let decoder = decoder.with_quarantine(Quarantine::new(std::slice::from_ref(&rule), ids).unwrap());
        let (_, behind) = receive_by(&config, (&wire, &decoder), &records, &[]);

        let is_excluded = |user: Id, item: Id| {
            (!of_user || user == hashed(Id(2), IdKind::User)) && (!of_item || item == hashed(Id(1), IdKind::Item))
        };
        let mut stage = Stage::new(&StoreConfig::Memory, &config, pair(0), features(), BATCH).unwrap();
        let mut batches = Vec::new();
        for recorded in &log {
            stage.take(&without(recorded, is_excluded), &mut batches).unwrap();
        }
        batches.extend(stage.flush());
        prop_assert_eq!(outcomes(&samples(batches)), outcomes(&samples(behind)));
    }
}

fn rename_action(action: &mut Action, hashed: impl Fn(Id, IdKind) -> Id) {
    action.user = hashed(action.user, IdKind::User);
    action.item = hashed(action.item, IdKind::Item);
}

/// A record without what is excluded, as the decoder of one process gives it.
fn without(recorded: &DecodedRecord, is_excluded: impl Fn(Id, Id) -> bool) -> DecodedRecord {
    let nothing = || Err(Reject::new(RejectReason::Quarantined, "excluded"));
    let event = match recorded.event.clone().unwrap() {
        Event::Impression(mut impression) => {
            let user = impression.user;
            impression.items.retain(|shown| !is_excluded(user, shown.item));
            match impression.items.is_empty() {
                true => nothing(),
                false => Ok(Event::Impression(impression)),
            }
        }
        Event::Action(action) if is_excluded(action.user, action.item) => nothing(),
        Event::Actions(mut actions) => {
            actions.retain(|action| !is_excluded(action.user, action.item));
            match actions.is_empty() {
                true => nothing(),
                false => Ok(Event::Actions(actions)),
            }
        }
        other => Ok(other),
    };
    DecodedRecord {
        event,
        ..recorded.clone()
    }
}

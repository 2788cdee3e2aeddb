//! Who is known, and from when until when.

use super::*;

#[test]
fn a_key_opens_for_its_holder_alone() {
    let house = House::with(&[key(1), key(2)]);
    let one = house.who("secret 1");
    assert_eq!(one.key(), key(1).id);
    assert_eq!(one.name(), "key 1");
    assert_eq!(one.tenant(), tenant(1).id);
    assert_eq!(**one.tenant_text(), tenant(1).id.to_string());
    assert_eq!(house.who("secret 2").key(), key(2).id);
    for wrong in ["", "secret", "secret 3", "Secret 1", "secret 1 "] {
        assert_eq!(house.refusal(wrong), AccessError::Unknown, "{wrong:?}");
        assert_eq!(house.refusal(wrong).kind(), ErrorKind::InvalidCredentials);
    }
    assert_eq!(house.access.operator("secret 1"), Err(AccessError::Unknown));
    let shown = format!("{one:?}");
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn a_key_ends_when_it_says() {
    let until = noon() + TimeDelta::seconds(10);
    let house = House::with(&[ApiKey {
        expires_at: Some(until),
        ..key(1)
    }]);
    house.pass(TimeDelta::milliseconds(9999));
    house.who("secret 1");
    house.pass(TimeDelta::milliseconds(1));
    assert_eq!(house.refusal("secret 1"), AccessError::Expired);
    house.put(&[key(1)]);
    house.who("secret 1");
}

#[test]
fn a_rotated_key_opens_with_both_secrets_for_a_while() {
    let house = House::with(&[key(1)]);
    let until = noon() + TimeDelta::seconds(60);
    let rotated = ApiKey {
        hash: SecretHash::of("new"),
        previous: Some((key(1).hash, until)),
        ..key(1)
    };
    house.put(std::slice::from_ref(&rotated));
    assert_eq!(house.who("new").key(), house.who("secret 1").key());
    house.pass(TimeDelta::seconds(60));
    assert_eq!(house.refusal("secret 1"), AccessError::Expired);
    house.who("new");
    // Again, without an overlap: only the newest opens.
    house.put(&[ApiKey {
        hash: SecretHash::of("newest"),
        previous: None,
        ..key(1)
    }]);
    house.who("newest");
    assert_eq!(house.refusal("new"), AccessError::Unknown);
    assert_eq!(house.refusal("secret 1"), AccessError::Unknown);
    // Whose end comes before the overlap's, ends with both.
    house.put(&[ApiKey {
        previous: Some((SecretHash::of("newest"), noon() + TimeDelta::days(1))),
        expires_at: Some(noon()),
        ..rotated
    }]);
    assert_eq!(house.refusal("newest"), AccessError::Expired);
    assert_eq!(house.refusal("new"), AccessError::Expired);
}

#[test]
fn what_is_gone_opens_nothing_and_comes_back() {
    let house = House::with(&[key(1), key(2)]);
    let gone = Changes {
        keys_gone: vec![key(1).id],
        ..Changes::default()
    };
    house.access.apply(&gone);
    house.access.apply(&gone);
    assert_eq!(house.refusal("secret 1"), AccessError::Unknown);
    house.who("secret 2");
    assert_eq!(house.access.counts().keys, 1);
    house.access.apply(&Changes {
        tenants_gone: vec![tenant(1).id],
        ..Changes::default()
    });
    assert_eq!(house.refusal("secret 2"), AccessError::Unknown);
    assert_eq!(house.access.counts().keys, 0);
    house.put(&[key(1)]);
    assert_eq!(
        house.refusal("secret 1"),
        AccessError::Unknown,
        "its tenant is gone"
    );
    house.tenant(1);
    house.who("secret 1");
}

#[test]
fn a_key_waits_for_its_tenant() {
    let house = House::new();
    house.put(&[key(1)]);
    assert_eq!(house.refusal("secret 1"), AccessError::Unknown);
    house.tenant(2);
    assert_eq!(house.refusal("secret 1"), AccessError::Unknown);
    house.tenant(1);
    house.who("secret 1");
    // And one that was taken away while it waited does not come.
    let stray = ApiKey {
        tenant: tenant(3).id,
        ..key(2)
    };
    house.put(&[stray]);
    house.access.apply(&Changes {
        keys_gone: vec![key(2).id],
        ..Changes::default()
    });
    house.tenant(3);
    assert_eq!(house.refusal("secret 2"), AccessError::Unknown);
}

#[test]
fn changes_that_are_behind_are_known_already() {
    let house = House::new();
    let at = |revision, keys: &[ApiKey], keys_gone: &[KeyId]| {
        house.access.apply(&Changes {
            revision,
            tenants: vec![tenant(1)],
            keys: keys.to_vec(),
            keys_gone: keys_gone.to_vec(),
            ..Changes::default()
        });
    };
    at(5, &[key(1)], &[]);
    at(7, &[], &[key(1).id]);
    at(6, &[key(1)], &[]);
    assert_eq!(
        house.refusal("secret 1"),
        AccessError::Unknown,
        "it was revoked since"
    );
    at(8, &[key(1)], &[]);
    house.who("secret 1");
}

#[test]
fn a_database_that_was_set_back_is_believed() {
    let house = House::new();
    let all = |revision, numbers: &[u128]| Changes {
        revision,
        tenants: vec![tenant(1)],
        keys: numbers
            .iter()
            .map(|&number| rated(number, 0.001, 2))
            .collect(),
        ..Changes::default()
    };
    house.access.apply(&all(9, &[1, 2]));
    let holder = house.access.principal(&secret(1)).expect("known");
    house.access.admit(&holder, 2).expect("two at once");
    house.access.replace(&all(4, &[1, 3]));
    let holder = house.access.principal(&secret(1)).expect("still known");
    assert!(
        house.access.admit(&holder, 1).is_err(),
        "it keeps what it owes"
    );
    assert!(house.access.principal(&secret(2)).is_err(), "it never was");
    assert!(house.access.principal(&secret(3)).is_ok());
    house.access.apply(&all(5, &[2]));
    assert!(
        house.access.principal(&secret(2)).is_ok(),
        "later changes count"
    );
}

#[test]
fn a_secret_that_changed_hands_opens_for_its_new_holder() {
    let house = House::with(&[key(1)]);
    let other = ApiKey {
        hash: key(1).hash,
        ..key(2)
    };
    let first = ApiKey {
        hash: SecretHash::of("another"),
        ..key(1)
    };
    house.put(&[other, first]);
    assert_eq!(house.who("secret 1").key(), key(2).id);
    assert_eq!(house.who("another").key(), key(1).id);
}

#[test]
fn a_key_may_what_its_scopes_and_models_say() {
    let house = House::with(&[ApiKey {
        scopes: vec![Scope::Read],
        models: vec![
            "digits".parse().expect("a pattern"),
            "team-*".parse().expect("a pattern"),
        ],
        ..key(1)
    }]);
    let who = house.who("secret 1");
    assert!(who.may(Scope::Read) && !who.may(Scope::Classify) && !who.may(Scope::Feedback));
    assert_eq!(
        kind(who.require(&[Scope::Classify])),
        Some(ErrorKind::Forbidden)
    );
    assert_eq!(who.require(&[Scope::Classify, Scope::Read]), Ok(()));
    for (model, may) in [("digits", true), ("team-a", true), ("other", false)] {
        assert_eq!(who.may_use(&model.parse().expect("an id")), may, "{model}");
    }
    house.put(&[ApiKey {
        models: vec![],
        ..key(2)
    }]);
    assert!(
        !house
            .who("secret 2")
            .may_use(&"digits".parse().expect("an id"))
    );
}

#[test]
fn tokens_open_for_operators() {
    let house = House::new();
    let token = AdminToken {
        id: TokenId(Uuid::from_u128(9)),
        name: "ops".to_owned(),
        hash: SecretHash::of("token"),
        hint: String::new(),
        role: Role::Operator,
        expires_at: Some(noon() + TimeDelta::seconds(5)),
        created_at: noon(),
        last_used_at: None,
    };
    let changes = Changes {
        tokens: vec![token.clone()],
        ..Changes::default()
    };
    house.access.apply(&changes);
    house.access.apply(&changes);
    let operator = house.access.operator("token").expect("known");
    assert_eq!((operator.id, operator.role), (token.id, Role::Operator));
    assert_eq!(&*operator.name, "ops");
    assert_eq!(
        house.refusal("token"),
        AccessError::Unknown,
        "a token is no key"
    );
    assert_eq!(house.access.take_used(), (vec![], vec![(token.id, noon())]));
    house.pass(TimeDelta::seconds(5));
    assert_eq!(house.access.operator("token"), Err(AccessError::Expired));
    house.access.apply(&Changes {
        tokens_gone: vec![token.id],
        ..Changes::default()
    });
    assert_eq!(house.access.operator("token"), Err(AccessError::Unknown));
}

#[test]
fn when_a_key_was_used_is_told_once_and_again_when_it_is_used_again() {
    let house = House::with(&[key(1), key(2)]);
    house.who("secret 1");
    house.pass(TimeDelta::seconds(1));
    house.who("secret 1");
    let later = noon() + TimeDelta::seconds(1);
    let (keys, tokens) = house.access.take_used();
    assert_eq!(
        (keys.as_slice(), tokens.as_slice()),
        (&[(key(1).id, later)][..], &[][..])
    );
    assert_eq!(house.access.take_used(), (vec![], vec![]));
    house.access.put_back_used(&keys, &tokens);
    assert_eq!(house.access.take_used(), (keys, vec![]));
    house.pass(TimeDelta::seconds(1));
    house.who("secret 1");
    assert_eq!(
        house.access.use_of(key(1).id).last_at,
        Some(later + TimeDelta::seconds(1))
    );
    assert_eq!(house.access.use_of(key(2).id), KeyUse::default());
    // Who was refused has not used it.
    house.put(&[ApiKey {
        expires_at: Some(noon()),
        ..key(2)
    }]);
    house.refusal("secret 2");
    assert_eq!(house.access.use_of(key(2).id).last_at, None);
}

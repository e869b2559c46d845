"""Quick start: which of four outcomes should one model learn together? Some minutes on two cores."""

import tim_search


def main() -> None:
    # Four outcomes of 8,758 real patients (built in), trained alone and in pairs, in two blocks of seed and fold.
    search = tim_search.resolve_search(
        tim_search.SearchFile(
            cohort="support2",
            name="quick-start",
            tasks=["hospdead", "dnr_later", "slos_log", "avtisst"],
            design={"sized": 2},
            blocks=2,
            training={"epochs": 5},
        ),
        out="runs/quick-start",
    )
    found = tim_search.run_search(search).results  # stop it when you like: run again, and it goes on

    print("Which task helps which (the score of the source task, with it minus without it):")
    print(found.tim().to_frame()[["source", "task", "estimate", "low", "high"]].to_string(index=False))

    print("The best combination for each outcome, by validation score:")
    for best in found.expand(rule="paper")[0]:
        print(f"  {best.source}: {' + '.join(best.best)}, gain {best.gain:+.4f}")

    # Train the one for death in hospital on all training patients and judge it on patients the search has not seen.
    trained = tim_search.train_model(found.folder, "hospdead", rule="paper")
    model = tim_search.load_model(trained.folder)
    print(f"Model in {trained.folder}; its prediction for a made-up patient:")
    print(model.predict(model.example()).T)


if __name__ == "__main__":  # the workers import this file too
    main()

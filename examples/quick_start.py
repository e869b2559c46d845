"""Quick start: which of four outcomes should one model learn together? Some minutes on two cores."""

import tim_search


def main() -> None:
    # Four outcomes of 8,758 real patients (built in), trained alone and in pairs, in two blocks of seed and fold.
    # Stop it when you like: run again, and it goes on. A frame of your own in the place of "support2" works too.
    search = tim_search.search(
        "support2",
        "runs/quick-start",
        name="quick-start",
        tasks=["hospdead", "dnr_later", "slos_log", "avtisst"],
        design="pairs",
        blocks=2,
        training={"epochs": 5},
    )
    print(search)

    print("Which task helps which (the score of the source task, with it minus without it):")
    print(search.tim()[["source", "task", "estimate", "low", "high"]].to_string(index=False))

    print("The best combination for each outcome, by validation score:")
    print(search.expand("paper")[["source", "best", "gain"]].to_string(index=False))

    # Train the one for death in hospital on all training patients and judge it on patients the search has not seen.
    trained = search.train("hospdead", rule="paper")
    model = trained.load()
    print(f"Model in {trained.folder}; its prediction for a made-up patient:")
    print(model.predict(model.example()).T)


if __name__ == "__main__":  # the workers import this file too
    main()

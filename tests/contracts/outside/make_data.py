import csv
import random

random.seed(0)
GENRES = ("comedy", "drama", "horror", "western")
films = [(f"film{n}", GENRES[n % 4], 1960 + n // 4 * 3) for n in range(80)]
with open("films.csv", "w", newline="") as file:
    csv.writer(file).writerows([("film", "genre", "year"), *films])
with open("ratings.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(("user", "film", "time"))
    for user in range(300):
        liked = [film for film, genre, _ in films if genre == GENRES[user % 4]]
        half = liked[:12] if user % 8 < 4 else liked[-12:]
        for time, film in enumerate(random.sample(half, 8)):
            writer.writerow((user, film, time))

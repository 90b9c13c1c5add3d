package readers

import "github.com/gomodule/redigo/redis"

const productTTLSeconds = 3600

// Product returns a row that has a key of its own: walpurge deletes the key, and the next reader
// fills it again. load reads the row from Postgres.
func Product(cache redis.Conn, load func(id string) (string, error), id string) (string, error) {
	key := "product:" + id
	cached, err := redis.String(cache.Do("GET", key))
	if err != redis.ErrNil {
		return cached, err
	}
	row, err := load(id)
	if err != nil {
		return "", err
	}
	_, err = cache.Do("SET", key, row, "EX", productTTLSeconds)
	return row, err
}

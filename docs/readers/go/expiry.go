package readers

import "github.com/gomodule/redigo/redis"

const (
	hotTTLSeconds = 3600
	// The rule's expire_in.
	refreshBelowMillis = 30_000
	// Longer than load takes: then another reader tries.
	loadMillis = 5_000
)

// Hot returns a value of which the old one may be shown for a while: walpurge cuts its time to
// live to expire_in, and one reader makes it anew while all others go on with what is there. load
// reads it from Postgres.
func Hot(cache redis.Conn, key string, load func() (string, error)) (string, error) {
	cache.Send("MULTI")
	cache.Send("GET", key)
	cache.Send("PTTL", key)
	read, err := redis.Values(cache.Do("EXEC"))
	if err != nil {
		return "", err
	}
	left, err := redis.Int(read[1], nil)
	if err != nil {
		return "", err
	}
	cached, err := redis.String(read[0], nil)
	isThere := err == nil
	if isThere && left > refreshBelowMillis {
		return cached, nil
	}
	_, err = redis.String(cache.Do("SET", key+":making", "1", "NX", "PX", loadMillis))
	if isThere && err == redis.ErrNil {
		return cached, nil
	}
	value, err := load()
	if err != nil {
		return "", err
	}
	if _, err = cache.Do("SET", key, value, "EX", hotTTLSeconds); err != nil {
		return "", err
	}
	_, err = cache.Do("UNLINK", key+":making")
	return value, err
}

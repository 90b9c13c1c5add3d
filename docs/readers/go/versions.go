package readers

import (
	"encoding/json"
	"reflect"
	"time"

	"github.com/gomodule/redigo/redis"
)

const versionedTTLSeconds = 3600

type entry struct {
	Versions []string `json:"versions"`
	Value    string   `json:"value"`
}

// Versioned returns the value at key, stored under the versions of what it depends on: walpurge
// raises a version, and what was stored under the one before is no hit any more. load reads the
// value from Postgres.
func Versioned(
	cache redis.Conn, key string, counters []string, load func() (string, error),
) (string, error) {
	read, err := redis.Strings(cache.Do("MGET", redis.Args{key}.AddFlat(counters)...))
	if err != nil {
		return "", err
	}
	stored, versions := read[0], read[1:]
	if isMissing(versions) {
		if versions, err = begin(cache, counters); err != nil {
			return "", err
		}
	}
	var found entry
	if stored != "" && json.Unmarshal([]byte(stored), &found) == nil &&
		reflect.DeepEqual(found.Versions, versions) {
		return found.Value, nil
	}
	// The versions were read before the rows: after a commit in between this entry is a miss.
	value, err := load()
	if err != nil {
		return "", err
	}
	made, err := json.Marshal(entry{Versions: versions, Value: value})
	if err != nil {
		return "", err
	}
	_, err = cache.Do("SET", key, made, "EX", versionedTTLSeconds)
	return value, err
}

func isMissing(versions []string) bool {
	for _, version := range versions {
		if version == "" {
			return true
		}
	}
	return false
}

// begin starts missing counters at the time, as walpurge does, so that no version comes twice.
func begin(cache redis.Conn, counters []string) ([]string, error) {
	now := time.Now().UnixMicro()
	cache.Send("MULTI")
	for _, counter := range counters {
		cache.Send("SET", counter, now, "NX")
	}
	cache.Send("MGET", redis.Args{}.AddFlat(counters)...)
	replies, err := redis.Values(cache.Do("EXEC"))
	if err != nil {
		return nil, err
	}
	return redis.Strings(replies[len(counters)], nil)
}
